# What the provider runs as the first process of a container that is reached by SSH
# (vastsim/FACTS.md, Machines): first the SSH server, then the user's start script, both with their
# output in the container's log. The image's own entrypoint is not run.
if ! [ -x /usr/sbin/sshd ]; then
  echo "The image has no SSH server; installing one."
  apt-get install -y -qq openssh-server || echo "E: Unable to install openssh-server" >&2
fi
if [ -x /usr/sbin/sshd ]; then
  for key in /etc/ssh/ssh_host_ed25519_key $(sed -n 's/^HostKey //p' /etc/ssh/sshd_config); do
    [ -s "$key" ] || ssh-keygen -q -t ed25519 -N '' -f "$key"
  done
  mkdir -p /run/sshd
  /usr/sbin/sshd
  sh /.onstart &
fi
# The first process reaps what its descendants leave behind.
while :; do sleep 1000000 & wait $!; done
