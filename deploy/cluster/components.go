package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"thaw/deploy/cluster/driver"
	"thaw/deploy/cluster/images"
)

// component is one process of the cluster.
type component struct {
	name   string
	binary string
	args   []string
	env    []string
	ready  func(context.Context) error
}

const csiDriver = "csi-driver"

func (p paths) csiSocket() string        { return p.in("kubelet", "plugins", driver.Name, "csi.sock") }
func (p paths) faults() driver.FaultFile { return driver.FaultFile(p.in("csi", "faults.json")) }
func (p paths) kubeletDir() string       { return p.in("kubelet") }
func (p paths) pool() string             { return p.in("csi", "pool") }
func (p paths) component(name string) (component, error) {
	o, err := p.loadOptions()
	if err != nil {
		return component{}, err
	}
	all, err := p.components(o)
	if err != nil {
		return component{}, err
	}
	var names []string
	for _, c := range all {
		if c.name == name {
			return c, nil
		}
		names = append(names, c.name)
	}
	return component{}, fmt.Errorf("there is no component %q: want one of %s", name, strings.Join(names, ", "))
}

// components are all, in the order in which they start.
func (p paths) components(o options) ([]component, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	kube := func(name string, args ...string) component {
		return component{name: name, binary: p.binary(name), args: args}
	}
	listening := func(address string) func(context.Context) error {
		return func(context.Context) error {
			c, err := net.DialTimeout("tcp", address, time.Second)
			if err != nil {
				return err
			}
			return c.Close()
		}
	}
	present := func(file string) func(context.Context) error {
		return func(context.Context) error { _, err := os.Stat(file); return err }
	}
	etcdURL, peerURL := "https://127.0.0.1:"+etcdPort, "http://127.0.0.1:"+etcdPeer
	etcd := component{name: "etcd", binary: lookup("etcd"), ready: listening("127.0.0.1:" + etcdPort), args: []string{
		"--name=thaw", "--data-dir=" + p.in("etcd"),
		"--listen-client-urls=" + etcdURL, "--advertise-client-urls=" + etcdURL,
		"--listen-peer-urls=" + peerURL, "--initial-advertise-peer-urls=" + peerURL, "--initial-cluster=thaw=" + peerURL,
		"--cert-file=" + p.cert("etcd"), "--key-file=" + p.key("etcd"), "--client-cert-auth", "--trusted-ca-file=" + p.cert("etcd-ca"),
	}}
	apiserver := kube("kube-apiserver",
		"--advertise-address="+nodeIP, "--bind-address="+nodeIP, "--secure-port="+apiPort, "--service-cluster-ip-range="+svcRange,
		"--etcd-servers="+etcdURL, "--etcd-cafile="+p.cert("etcd-ca"), "--etcd-certfile="+p.cert("apiserver-etcd"), "--etcd-keyfile="+p.key("apiserver-etcd"),
		"--client-ca-file="+p.cert("ca"), "--tls-cert-file="+p.cert("apiserver"), "--tls-private-key-file="+p.key("apiserver"),
		"--kubelet-certificate-authority="+p.cert("ca"), "--kubelet-client-certificate="+p.cert("apiserver-kubelet"), "--kubelet-client-key="+p.key("apiserver-kubelet"),
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc."+domain, "--service-account-key-file="+p.in("pki", "service-account.pub"), "--service-account-signing-key-file="+p.key("service-account"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true", "--profiling=false",
	)
	apiserver.ready = func(ctx context.Context) error {
		_, err := p.kubectl(ctx, "get", "--raw", "/readyz", "--request-timeout=5s")
		return err
	}
	controllers := kube("kube-controller-manager",
		"--kubeconfig="+p.kubeconfig("kube-controller-manager"), "--use-service-account-credentials",
		"--authentication-kubeconfig="+p.kubeconfig("kube-controller-manager"), "--authorization-kubeconfig="+p.kubeconfig("kube-controller-manager"),
		"--tls-cert-file="+p.cert("kube-controller-manager"), "--tls-private-key-file="+p.key("kube-controller-manager"),
		"--service-account-private-key-file="+p.key("service-account"), "--root-ca-file="+p.cert("ca"),
		"--cluster-signing-cert-file="+p.cert("ca"), "--cluster-signing-key-file="+p.key("ca"),
		"--flex-volume-plugin-dir="+p.in("kubelet", "volume-plugins"), // else it makes one in /usr
		"--bind-address=127.0.0.1", "--leader-elect=false", "--profiling=false", "--kube-api-qps=100", "--kube-api-burst=200",
	)
	scheduler := kube("kube-scheduler",
		"--kubeconfig="+p.kubeconfig("kube-scheduler"),
		"--authentication-kubeconfig="+p.kubeconfig("kube-scheduler"), "--authorization-kubeconfig="+p.kubeconfig("kube-scheduler"),
		"--tls-cert-file="+p.cert("kube-scheduler"), "--tls-private-key-file="+p.key("kube-scheduler"),
		"--bind-address=127.0.0.1", "--leader-elect=false", "--profiling=false",
	)
	containerd := component{name: "containerd", binary: lookup("containerd"), args: []string{"--config", p.in("config", "containerd.toml")}}
	containerd.ready = func(ctx context.Context) error { _, err := p.ctr(ctx, "", "version"); return err }
	kubelet := kube("kubelet", "--config="+p.in("config", "kubelet.yaml"), "--kubeconfig="+p.kubeconfig("kubelet"),
		"--root-dir="+p.kubeletDir(), "--hostname-override="+nodeName, "--node-ip="+nodeIP)
	kubelet.ready = p.kubeletReady
	csi := component{name: csiDriver, binary: self, ready: present(p.csiSocket()), args: []string{
		"csi-driver", "--socket=" + p.csiSocket(), "--register=" + p.in("kubelet", "plugins_registry"), "--image=" + p.in("csi", "pool.img"),
		"--pool=" + p.pool(), "--size=" + strconv.FormatInt(o.PoolSize, 10), "--node=" + nodeName, "--faults=" + string(p.faults()),
	}}
	// Short retries: what a test tells the driver to do wrong is over soon. And
	// more than five requests a second: many tests share the cluster.
	retry := []string{"--retry-interval-start=250ms", "--retry-interval-max=2s", "--kube-api-qps=100", "--kube-api-burst=200"}
	sidecar := func(name string, args ...string) component {
		return kube(name, append(append([]string{"--kubeconfig=" + p.kubeconfig(name)}, retry...), args...)...)
	}
	dns := component{name: "dns", binary: self, args: []string{"dns", "--listen=" + nodeIP + ":53", "--pki=" + p.in("pki")}}
	dns.ready = listening(nodeIP + ":53")
	return []component{
		etcd, apiserver, controllers, scheduler, containerd, kubelet, csi,
		sidecar("snapshot-controller", "--feature-gates=CSIVolumeGroupSnapshot=true"),
		sidecar("csi-provisioner", "--csi-address="+p.csiSocket(), "--extra-create-metadata", "--default-fstype=btrfs"),
		sidecar("csi-snapshotter", "--csi-address="+p.csiSocket(), "--extra-create-metadata", "--feature-gates=CSIVolumeGroupSnapshot=true"),
		dns,
		kube("kube-proxy", "--config="+p.in("config", "kube-proxy.yaml")),
	}, nil
}

// kubeletReady: one that was started again refuses exec until it has learnt of
// its pods.
func (p paths) kubeletReady(ctx context.Context) error {
	c, err := net.DialTimeout("tcp", nodeIP+":10250", time.Second)
	if err != nil {
		return err
	}
	if err := c.Close(); err != nil {
		return err
	}
	want, err := p.kubectl(ctx, "get", "pods", "--all-namespaces", "--field-selector=status.phase=Running", "--output=name", "--request-timeout=3s")
	if err != nil {
		return nil // no API server to learn from
	}
	have, err := p.kubectl(ctx, "get", "--raw", "/api/v1/nodes/"+nodeName+"/proxy/pods", "--request-timeout=3s")
	if err != nil {
		return err
	}
	var list struct{ Items []struct{} }
	if err := json.Unmarshal([]byte(have), &list); err != nil {
		return fmt.Errorf("its pods: %w", err)
	}
	if n := strings.Count(want, "\n"); len(list.Items) < n {
		return fmt.Errorf("it knows of %d pods, and %d run", len(list.Items), n)
	}
	return nil
}

func lookup(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	return name
}

// writeConfig writes the components' files.
func (p paths) writeConfig(o options) error {
	for name, text := range map[string]string{
		"config/containerd.toml": fmt.Sprintf(`version = 2
root = %[1]q
state = %[2]q
# Not Debian's /opt, and no snapshotter that looks for devices.
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = %[3]q
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %[4]q
  # A machine that is itself a container may not lower the score.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  tolerate_missing_hugetlb_controller = true
  disable_apparmor = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      Root = %[5]q
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = %[6]q
`, p.in("containerd", "root"), p.in("containerd", "run"), p.runtime(), images.Pause, p.in("containerd", "runc"), p.in("cni", "net.d")),

		// Point to point, no bridge: all traffic of pods is routed, and so goes
		// through kube-proxy's rules.
		"cni/net.d/10-thaw.conflist": fmt.Sprintf(`{"cniVersion": "0.4.0", "name": "thaw", "plugins": [{"type": "ptp", "ipMasq": false,
  "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": %q, "gateway": %q}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
`, p.in("cni", "ipam"), podRange, podRouter),

		"config/kubelet.yaml": fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: %[1]s
tlsCertFile: %[2]s
tlsPrivateKeyFile: %[3]s
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: %[4]s}}
authorization: {mode: Webhook}
containerRuntimeEndpoint: unix://%[5]s
cgroupDriver: cgroupfs
cgroupRoot: /%[6]s
failCgroupV1: false
failSwapOn: false
localStorageCapacityIsolation: false
oomScoreAdj: 0
podLogsDir: %[7]s
containerLogMaxSize: %[8]s
containerLogMaxFiles: %[9]d
containerLogMonitorInterval: 3s
clusterDNS: [%[1]s]
clusterDomain: %[10]s
resolvConf: %[11]s
volumePluginDir: %[12]s
# There is no registry to pull an image again from.
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 50Mi, nodefs.available: 1%%, imagefs.available: 1%%}
`, nodeIP, p.cert("kubelet"), p.key("kubelet"), p.cert("ca"), p.runtime(), p.cgroup, podLogs, o.LogMaxSize, o.LogFiles, domain, p.in("config", "resolv.conf"), p.in("kubelet", "volume-plugins")),

		// Pods have no way out of the cluster.
		"config/resolv.conf": "",

		"config/kube-proxy.yaml": fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: %s}
mode: iptables
clusterCIDR: %s
hostnameOverride: %s
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
iptables: {localhostNodePorts: false}
# The machine's limits are left alone.
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`, p.kubeconfig("kube-proxy"), podRange, nodeName),
	} {
		if err := writeFile(p.in(name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("write configuration: %w", err)
		}
	}
	return nil
}

// kubectl runs one as the administrator.
func (p paths) kubectl(ctx context.Context, args ...string) (string, error) {
	return p.kubectlInput(ctx, "", args...)
}

func (p paths) kubectlInput(ctx context.Context, input string, args ...string) (string, error) {
	return runInput(ctx, input, p.binary("kubectl"), append([]string{"--kubeconfig=" + p.admin(), "--cache-dir=" + p.in("kubectl")}, args...)...)
}

func (p paths) ctr(ctx context.Context, input string, args ...string) (string, error) {
	return runInput(ctx, input, "ctr", append([]string{"--address=" + p.runtime(), "--namespace=k8s.io"}, args...)...)
}
