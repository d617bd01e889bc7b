"""Field names of the component configurations that a profile may set.

Taken from the `json` tags of KubeletConfiguration (k8s.io/kubelet config/v1beta1) and
KubeProxyConfiguration (k8s.io/kube-proxy config/v1alpha1), versions 0.34.2 to 0.37.2. A field
that came later carries the first minor version that knows it: an older kubelet refuses to start
with it, so it is refused here first.
"""

from __future__ import annotations


def words(text: str) -> frozenset[str]:
    """The words of a text, for long lists of names."""
    return frozenset(text.split())


KUBELET_FIELDS = words(
    """
    address allowedUnsafeSysctls authentication authorization cgroupDriver cgroupRoot
    cgroupsPerQOS clusterDNS clusterDomain configMapAndSecretChangeDetectionStrategy
    containerLogMaxFiles containerLogMaxSize containerLogMaxWorkers
    containerLogMonitorInterval containerRuntimeEndpoint contentType cpuCFSQuota
    cpuCFSQuotaPeriod cpuManagerPolicy cpuManagerPolicyOptions cpuManagerReconcilePeriod
    crashLoopBackOff enableContentionProfiling enableControllerAttachDetach
    enableDebugFlagsHandler enableDebuggingHandlers enableProfilingHandler enableServer
    enableSystemLogHandler enableSystemLogQuery enforceNodeAllocatable eventBurst
    eventRecordQPS evictionHard evictionMaxPodGracePeriod evictionMinimumReclaim
    evictionPressureTransitionPeriod evictionSoft evictionSoftGracePeriod failCgroupV1
    failSwapOn featureGates fileCheckFrequency hairpinMode healthzBindAddress healthzPort
    httpCheckFrequency imageGCHighThresholdPercent imageGCLowThresholdPercent
    imageMaximumGCAge imageMinimumGCAge imagePullCredentialsVerificationPolicy
    imageServiceEndpoint iptablesDropBit iptablesMasqueradeBit kernelMemcgNotification
    kubeAPIBurst kubeAPIQPS kubeReserved kubeReservedCgroup kubeletCgroups
    localStorageCapacityIsolation logging makeIPTablesUtilChains maxOpenFiles
    maxParallelImagePulls maxPods memoryManagerPolicy memorySwap memoryThrottlingFactor
    mergeDefaultEvictionSettings nodeLeaseDurationSeconds nodeStatusMaxImages
    nodeStatusReportFrequency nodeStatusUpdateFrequency oomScoreAdj podCIDR podLogsDir
    podPidsLimit podsPerCore port preloadedImagesVerificationAllowlist protectKernelDefaults
    providerID qosReserved readOnlyPort registerNode registerWithTaints registryBurst
    registryPullQPS reservedMemory reservedSystemCPUs resolvConf rotateCertificates runOnce
    runtimeRequestTimeout seccompDefault serializeImagePulls serverTLSBootstrap
    showHiddenMetricsForVersion shutdownGracePeriod shutdownGracePeriodByPodPriority
    shutdownGracePeriodCriticalPods singleProcessOOMKill staticPodPath staticPodURL
    staticPodURLHeader streamingConnectionIdleTimeout syncFrequency systemCgroups
    systemReserved systemReservedCgroup tlsCertFile tlsCipherSuites tlsMinVersion
    tlsPrivateKeyFile topologyManagerPolicy topologyManagerPolicyOptions
    topologyManagerScope tracing userNamespaces volumePluginDir volumeStatsAggPeriod
    """
)

KUBE_PROXY_FIELDS = words(
    """
    bindAddress bindAddressHardFail clientConnection clusterCIDR configSyncPeriod conntrack
    detectLocal detectLocalMode enableProfiling featureGates healthzBindAddress
    hostnameOverride iptables ipvs logging metricsBindAddress mode nftables
    nodePortAddresses oomScoreAdj portRange showHiddenMetricsForVersion windowsRunAsService
    winkernel
    """
)

# field -> first minor version of Kubernetes 1 that has it
KUBELET_SINCE = {
    "memoryReservationPolicy": 36,
    "tlsCurvePreferences": 36,
    "defaultPodSysctls": 37,
}

# Set by skerry, because its own layout or the cluster's shape depends on them.
KUBELET_OWN = words(
    """
    clusterDNS clusterDomain containerRuntimeEndpoint imageServiceEndpoint staticPodPath
    staticPodURL podCIDR providerID registerNode
    """
)
KUBE_PROXY_OWN = frozenset(("clusterCIDR", "clientConnection", "hostnameOverride"))
