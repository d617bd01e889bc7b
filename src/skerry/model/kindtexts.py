"""What each field that people write means: the words of docs/reference/kinds.md.

They stand apart from `kinds`, so that the table of kinds stays readable; a test compares the names.
"""

from __future__ import annotations

_TABLE = """
ProjectSpec.description | For people.
ProjectSpec.pauseAgentUpdates | Keep the agents of this project's hosts at their version.
SiteSpec.address | Where the site is, for people.
SiteSpec.latitude | Degrees north.
SiteSpec.longitude | Degrees east.
SiteSpec.timeZone | IANA name, like Europe/Dublin.
RegistrationTokenSpec.site | Site of the hosts that register with it.
RegistrationTokenSpec.labels | Labels that its hosts get.
RegistrationTokenSpec.expiresAt | When it ends; without one, after `token_hours`.
RegistrationTokenSpec.maximumUses | How many hosts may register with it.
RegistrationTokenSpec.autoApprove | Its hosts come in without a person's approval.
RegistrationTokenSpec.allowedNetworks | Hosts may register from these networks only (CIDR).
RegistrationTokenSpec.proxy | HTTP proxy that its install line uses on the way to the manager.
RegistrationTokenSpec.revoked | True ends the token at once.
HostClaimSpec.hostId | Hardware id of the expected host.
HostClaimSpec.serial | Serial number of the expected machine.
HostClaimSpec.mac | Address of one of its network cards.
HostClaimSpec.pairingKeyHash | Hash of a key that the host has; only this approves by itself.
HostClaimSpec.site | Site that the host gets.
HostClaimSpec.labels | Labels that the host gets.
HostClaimSpec.hostName | Name that the host gets.
HostSpec.site | Site where it stands.
HostSpec.osImage | Artifact of type os; counts where its cluster's profiles have no os layer.
HostSpec.approval | Set by approving and denying, not by applying.
HostSpec.revoked | True shuts the host out for good.
SecretSpec.data | Values by key. They are sealed in the store and never shown again.
ClusterProfileSpec.version | Version that this document is, like 1.2.0.
ClusterProfileSpec.type | full: a whole stack; infra: without add-ons; addon: add-ons only.
ClusterProfileSpec.description | For people.
ClusterProfileSpec.layers | Layers in the order in which they are applied.
ClusterProfileSpec.variables | Values that a cluster may set.
Layer.name | Name within the profile.
Layer.type | What the layer is.
Layer.provider | kubernetes: kubeadm. network: routed.
Layer.version | Version of what the provider installs.
Layer.values | Settings as YAML text; unknown keys are refused by name.
Layer.manifests | Kubernetes objects as YAML text.
Layer.chart | Artifact with a Helm chart.
Layer.namespace | Namespace of objects that name none.
Layer.artifacts | Artifacts whose images or charts the layer needs; of an os layer, its one image.
Layer.waitS | Seconds until a layer that is not ready counts as failed.
Variable.name | Used as `${{ name }}`.
Variable.format | What a value must look like.
Variable.default | Value when a cluster sets none.
Variable.regex | A value must match it as a whole.
Variable.required | A cluster must set it.
Variable.description | For people; forms show it.
ProfileUse.name | Profile.
ProfileUse.version | One of its recorded versions.
Pool.name | Name within the cluster.
Pool.role | What its hosts do.
Pool.hosts | Names of hosts of the same project.
ClusterSpec.profiles | The stack: one full profile, or one infra profile and add-ons.
ClusterSpec.variables | Values of the profiles' variables.
ClusterSpec.pools | Which hosts it runs on.
ArtifactSpec.type | What it holds.
ArtifactSpec.version | Its version.
ArtifactSpec.architecture | Which machines it is for.
ArtifactSpec.digest | Digest of its manifest.
ArtifactSpec.envelopeDigest | Digest of the statement that a release key signed.
ArtifactSpec.sizeBytes | Size of all of it.
LeaseSpec.limit | How many may hold it at a time.
UserSpec.displayName | Name for people.
UserSpec.email | Address for people.
UserSpec.disabled | True ends all access at once.
ServiceAccountSpec.description | For people.
ServiceAccountSpec.disabled | True ends all access at once.
RoleSpec.rules | What the role allows; everything else is denied.
RoleRule.kinds | Kinds that the rule is about.
RoleRule.verbs | get, list, watch, create, update, delete, approve, revoke and others.
RoleBindingSpec.role | Role that is given.
RoleBindingSpec.subjects | Who gets it.
RoleBindingSpec.project | Where it holds; empty for everywhere.
"""

FIELD_TEXTS: dict[str, str] = {
    name.strip(): text.strip()
    for name, _, text in (line.partition("|") for line in _TABLE.strip().splitlines())
}
