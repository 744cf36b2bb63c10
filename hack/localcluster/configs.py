"""Configuration files of the node's programs, as text."""

from pathlib import Path

POD_NETWORK = "10.244.0.0/24"
SERVICE_NETWORK = "10.96.0.0/16"
DNS_ADDRESS = "10.96.0.10"
NODE_ADDRESS = "10.77.0.1"
NODE_NAME = "gpujob-node"


def containerd(state: Path, programs: Path) -> str:
    """Returns containerd's configuration: without AppArmor, with cgroupfs and our pause image."""
    return f"""\
version = 3
root = "{state}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.erofs", "io.containerd.snapshotter.v1.blockfile", "io.containerd.nri.v1.nri"]
[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'overlayfs'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = 'localhost/pause:1'
[plugins.'io.containerd.cri.v1.runtime']
  disable_apparmor = true
  restrict_oom_score_adj = true
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  SystemdCgroup = false
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['{programs}/cni']
  conf_dir = '{state}/cfg/cni'
"""  # noqa: E501


CNI = f"""\
{{"cniVersion": "1.0.0", "name": "local", "plugins": [
  {{"type": "bridge", "bridge": "cni0", "isGateway": true, "isDefaultGateway": true,
    "ipMasq": false, "hairpinMode": true,
    "ipam": {{"type": "host-local", "ranges": [[{{"subnet": "{POD_NETWORK}"}}]],
              "dataDir": "/run/cni-ipam"}}}},
  {{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}}
"""


def kubelet(state: Path) -> str:
    """Returns the kubelet's configuration: allows cgroup v1, never deletes images."""
    keys = state / "pki"
    return f"""\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: {keys}/ca.crt}}}}
authorization: {{mode: Webhook}}
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
clusterDNS: ["{DNS_ADDRESS}"]
clusterDomain: cluster.local
resolvConf: {state}/cfg/resolv.conf
volumePluginDir: /var/lib/kubelet/volumeplugins
evictionHard: {{memory.available: "100Mi", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%", imagefs.inodesFree: "0%"}}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
kubeAPIQPS: 200
kubeAPIBurst: 400
healthzBindAddress: 127.0.0.1
"""  # noqa: E501


def kube_proxy(state: Path) -> str:
    """Returns kube-proxy's configuration: uses nftables, updates the rules quickly."""
    return f"""\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {{kubeconfig: {state}/cfg/kube-proxy.kubeconfig}}
mode: nftables
clusterCIDR: {POD_NETWORK}
bindAddress: 0.0.0.0
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
nodePortAddresses: ["primary"]
oomScoreAdj: 0
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
nftables: {{minSyncPeriod: 100ms, syncPeriod: 30s}}
iptables: {{minSyncPeriod: 100ms, syncPeriod: 30s}}
"""


AUDIT = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: None
    users: ["system:apiserver", "system:kube-scheduler", "system:kube-controller-manager"]
  - level: None
    userGroups: ["system:nodes"]
  - level: Metadata
"""
