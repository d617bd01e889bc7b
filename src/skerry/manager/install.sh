#!/bin/sh
# Installs the skerry agent and registers this machine. Made by the manager: its address, its root
# certificate and the digests of its archives are in here. Reads SKERRY_TOKEN or SKERRY_PAIRING_KEY
# and, when the way to the manager leads through a proxy, SKERRY_PROXY from the environment.
set -eu

manager=@MANAGER@

refuse() {
  echo "skerry: $1" >&2
  exit 4
}

[ "$(id -u)" = 0 ] || refuse "must be run as root"
[ "$(uname -s)" = Linux ] || refuse "this is not Linux"
[ -d /run/systemd/system ] || refuse "systemd is not running on this machine"
for program in curl tar gzip sha256sum systemctl; do
  command -v "$program" > /dev/null || refuse "program is missing: $program"
done

case "$(uname -m)" in
  x86_64) architecture=amd64 ;;
  aarch64) architecture=arm64 ;;
  *) refuse "no agent for this architecture: $(uname -m)" ;;
esac
digest=
case "$architecture" in
@CASES@
  *) ;;
esac
[ -n "$digest" ] || refuse "the manager has no agent archive for $architecture"

if [ -n "${SKERRY_PROXY:-}" ]; then
  export https_proxy="$SKERRY_PROXY"
  unset no_proxy NO_PROXY
fi

umask 077
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/trust.pem" << 'PEM'
@AUTHORITIES@
PEM

curl -fsS --retry 5 --retry-delay 2 --cacert "$work/trust.pem" \
  -o "$work/agent.tar.gz" "$manager/agent/$architecture/skerry-agent.tar.gz" \
  || refuse "cannot fetch the agent from $manager${SKERRY_PROXY:+ through the proxy}"
echo "$digest  $work/agent.tar.gz" | sha256sum -c - > /dev/null \
  || refuse "the agent archive has the wrong digest"

# Before anything is changed: a system that is too old is named, not found out by a crash.
needs=$(tar -xzOf "$work/agent.tar.gz" skerry-agent/glibc 2> /dev/null || true)
if [ -n "$needs" ]; then
  has=$(getconf GNU_LIBC_VERSION 2> /dev/null | cut -d ' ' -f 2 || true)
  [ -n "$has" ] || refuse "this system has no glibc; the agent needs glibc $needs or later"
  [ "$(printf '%s\n' "$needs" "$has" | sort -V | head -n 1)" = "$needs" ] \
    || refuse "this system has glibc $has; the agent needs glibc $needs or later"
fi

umask 022
# A trial of another agent that is still open ends here: what is installed now is what is wanted.
state=/var/lib/skerry/agent
units=/etc/systemd/system
if [ -e "$state/trial" ] || [ -e "$state/returning" ]; then
  systemctl stop skerry-agent-watchdog.timer skerry-agent.service || true
  rm -f "$state/trial" "$state/returning" "$state/starts" \
    "$units/timers.target.wants/skerry-agent-watchdog.timer" \
    "$units/skerry-agent-watchdog.timer" "$units/skerry-agent-watchdog.service" \
    "$units/skerry-agent.service.d/50-trial.conf"
fi
slots=/opt/skerry/agent
slot=a
[ "$(readlink "$slots/current" 2> /dev/null || true)" != a ] || slot=b
rm -rf "${slots:?}/$slot"
mkdir -p "$slots/$slot"
tar -xzf "$work/agent.tar.gz" --no-same-owner --strip-components=1 -C "$slots/$slot"
ln -sfn "$slot" "$slots/.current.new"
mv -T "$slots/.current.new" "$slots/current"

ln -sfn "$slots/current/skerry-agent" /usr/local/bin/skerry-agent

# Secrets and proxy stay in the environment: arguments can be read by every process.
"$slots/current/skerry-agent" register --manager "$manager" --trust "$work/trust.pem"
unset SKERRY_TOKEN SKERRY_PAIRING_KEY SKERRY_PROXY https_proxy
if [ -f "$slots/current/skerry-agent.service" ]; then
  cp "$slots/current/skerry-agent.service" /etc/systemd/system/skerry-agent.service
else
  cat > /etc/systemd/system/skerry-agent.service << 'UNIT'
[Unit]
Description=skerry agent
Wants=network-online.target
After=network-online.target
# However often it failed, a host keeps the only thing that can repair it.
StartLimitIntervalSec=0

[Service]
ExecStart=/opt/skerry/agent/current/skerry-agent run
Restart=always
RestartSec=5
OOMScoreAdjust=-900

[Install]
WantedBy=multi-user.target
UNIT
fi
systemctl daemon-reload
systemctl enable skerry-agent.service
systemctl restart skerry-agent.service
echo "skerry: the agent runs; see 'skerry-agent status'"
