#!/bin/bash
# PID 1 of the node's namespaces: sets up mounts and the network, and then reaps processes. When it
# dies, everything in the namespaces ends.
# Arguments: the cluster's state folder, the node's address.
set -eu
state=$1 address=$2

mount --make-rshared /
# The host's sysfs shows the host's interfaces. With it, each cgroup would also be mounted twice.
umount -R -l /sys
mount -t sysfs sysfs /sys
if [ -d /sys/fs/cgroup ] && grep -q '^[1-9]' /proc/self/cgroup; then
    mount -t tmpfs tmpfs /sys/fs/cgroup
    while IFS=: read -r number controllers path; do
        [ "$number" = 0 ] && continue
        folder=/sys/fs/cgroup/${controllers#name=}
        mkdir -p "$folder"
        mount -t cgroup -o "$controllers" cgroup "$folder"
    done < /proc/self/cgroup
    mkdir -p /sys/fs/cgroup/unified
    mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified 2>/dev/null || true
else
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi

# The default paths of kubelet and containerd work, and none of them is a folder of the host.
for folder in /run /var/lib /var/log; do mount -t tmpfs tmpfs "$folder"; done
mkdir -p /run/netns /run/lock /var/lib/cni /var/log/containers
for pair in kubelet:/var/lib/kubelet containerd:/var/lib/containerd podlogs:/var/log/pods; do
    mkdir -p "$state/${pair%%:*}" "${pair#*:}"
    mount --bind "$state/${pair%%:*}" "${pair#*:}"
done

ip link set lo up
# A bridge without ports serves as the interface, because not every kernel has dummy devices.
ip link add node0 type bridge
ip address add "$address/24" dev node0
ip link set node0 up
# Without a default route, packets to a Service's address are dropped before they are translated.
ip route add default dev node0
sysctl -q -w net.ipv4.ip_forward=1
sysctl -q -w net.bridge.bridge-nf-call-iptables=1 2>/dev/null || true
hostname gpujob-node

touch "$state/init.ready"
while :; do wait -n 2>/dev/null || true; sleep 0.2; done
