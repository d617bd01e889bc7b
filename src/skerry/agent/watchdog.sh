#!/bin/sh
# Takes the old agent back when the new one does not prove itself. The old agent puts this here
# before it lets the new one run; nothing of the new one is needed.
#
#   start   before each start of the agent: counts, and returns when it was started too often
#   late    when the time of the trial is over
#
# `trial` holds "NEW OLD STARTS SECONDS VERSION DIGEST". Whoever renames it decides: the new agent
# to `confirmed`, this script to `returning`. So both can never win, and a power cut at any point
# is made good by the next run.
set -u
state=/var/lib/skerry/agent
slots=/opt/skerry/agent

flush() {
  sync -f "$state" "$slots" 2> /dev/null || sync
}

back() {
  read -r _ old _ < "$state/returning" || exit 1
  ln -sfn "$old" "$slots/.current.back" || exit 1
  mv -fT "$slots/.current.back" "$slots/current" || exit 1
  flush
  mv -fT "$state/returning" "$state/returned" || exit 1
  flush
}

case "${1:-}" in
  start)
    if [ -f "$state/returning" ]; then
      back
      exit 0
    fi
    [ -f "$state/trial" ] || exit 0
    read -r new _ limit _ < "$state/trial" || exit 1
    [ "$(readlink "$slots/current")" = "$new" ] || exit 0
    starts=$(grep -c '^start ' "$state/starts" 2> /dev/null)
    if [ "${starts:-0}" -lt "$limit" ]; then
      boot=$(cat /proc/sys/kernel/random/boot_id 2> /dev/null) || boot=unknown
      echo "start $boot" >> "$state/starts" || exit 1
      flush
      exit 0
    fi
    mv -T "$state/trial" "$state/returning" 2> /dev/null || exit 0
    flush
    back
    ;;
  late)
    if [ ! -f "$state/returning" ]; then
      [ -f "$state/trial" ] || exit 0
      echo late >> "$state/starts" || exit 1
      flush
      mv -T "$state/trial" "$state/returning" 2> /dev/null || exit 0
      flush
    fi
    back
    # One that hangs may not listen to a polite stop either.
    systemctl kill --signal=KILL skerry-agent.service 2> /dev/null
    systemctl --no-block restart skerry-agent.service
    ;;
  *)
    echo "usage: watchdog.sh start|late" >&2
    exit 2
    ;;
esac
