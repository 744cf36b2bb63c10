"""The machine's start script: first the watchdog, then all else.

The provider takes only so many bytes of a start script, and the watchdog needs most of them. So
what follows it, the *setup*, comes in a variable of the container's environment: the driver's key,
the SSH server, and the host key to the log. Without it a machine cannot be reached, but its
watchdog runs all the same. No workload sees the variable.

The setup runs in the environment that the container's image gives its first process, which an SSH
session does not get; so it keeps that environment, and the working folder, for the workload.

The host key is printed again and again until a driver was there: an image that prints much at its
start would else push it out of what the provider shows of the log.

Both are POSIX shell and need only what nearly every container image has. The host's owner can read
them, so they contain no secret: only a public key, a nonce, an address and some numbers. A machine
that was stopped runs them again when it comes back, so what must not begin anew is stored.

The watchdog counts the bytes of the container's network interfaces, but for `lo`. It reads them
from /sys/class/net: every container has that folder (OCI runtime specification, Default
Filesystems), and a file in it holds one number, which a shell reads without another program. They
are counted in megabytes, because a shell may reckon with 32 bits (mksh does), and only what comes
while the watchdog looks, of each interface by itself: one that shows less than before has begun
anew, and one that is new has brought all that it shows. What the provider had counted
before, such as the pull of the image, is asked for once.

A proxy that the image names serves elsewhere, if at all: the watchdog asks none.
"""

import re
from base64 import b64encode
from datetime import datetime
from typing import NamedTuple

from gpujob.api.transport import MACHINE_FOLDER

LENGTH_MAX = 4000
"""The provider takes 4,048 bytes (vastsim/FACTS.md, Rent request)."""
SETUP_LENGTH_MAX = 16_000
"""It takes 32,768 bytes of environment, names and other variables included."""
SETUP_VARIABLE = "GPUJOB_SETUP"

_KEY = re.compile(r"ssh-ed25519 [A-Za-z0-9+/=]{20,200}")
_NONCE = re.compile(r"[0-9a-f]{16,64}")
_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]/_-]{1,200}")

_MARKER = "gpujob-host-key"

_WATCHDOG = r"""
g=@FOLDER@; mkdir -p $g; chmod 700 $g
cat > $g/watchdog <<'WATCHDOG'
unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY
u="@URL@/api/v0/instances/$CONTAINER_ID/"; g=@FOLDER@
nl='
'
ask() {
  if command -v curl >/dev/null; then
    printf 'header = "Authorization: Bearer %s"\n' "$CONTAINER_API_KEY" | curl -sS -m 20 -w '\n%{http_code}' \
      -K - -X "$1" -H 'Content-Type: application/json' -d "$2" "$u"
  elif command -v python3 >/dev/null; then
    M=$1 B=$2 U=$u python3 -c 'import os,urllib.request as r,urllib.error as x
e=os.environ
q=r.Request(e["U"],e["B"].encode(),{"Authorization":"Bearer "+e["CONTAINER_API_KEY"],"Content-Type":"application/json"},method=e["M"])
try: a=r.urlopen(q,timeout=20)
except x.HTTPError as f: a=f
print(a.read().decode());print(a.status)'
  elif command -v wget >/dev/null; then
    (umask 77; printf 'header = Authorization: Bearer %s\n' "$CONTAINER_API_KEY" > $g/w)
    WGETRC=$g/w wget -q -T 20 -t 1 -O - --method="$1" --header='Content-Type: application/json' \
      --body-data="$2" "$u" && printf '\n200'
  elif command -v perl >/dev/null; then
    M=$1 B=$2 U=$u perl -MHTTP::Tiny -e '$r=HTTP::Tiny->new(timeout=>20)->request($ENV{M},$ENV{U},{content=>$ENV{B},
headers=>{Authorization=>"Bearer $ENV{CONTAINER_API_KEY}","Content-Type"=>"application/json"}});print "$r->{content}\n$r->{status}"'
  fi
}
gone() {
  echo "gpujob: $1: this machine destroys itself"
  while :; do
    a=$(ask DELETE '{}')
    case ${a##*"$nl"} in 4[013]*) ask PUT '{"state":"stopped"}' >/dev/null;; esac
    sleep 10
  done
}
field() { a=${row#*"\"$1\":"}; a=${a# }; a=${a%%[!0-9]*}; }
mb() { n=; read -r n < "$1"; case $n in *[!0-9]*) n=0;; ???????*) n=${n%??????};; *) n=0;; esac; }
count() {
  now=
  for i in /sys/class/net/*; do
    j=/${i##*/}; [ "$j" = /lo ] && continue
    mb "$i/statistics/rx_bytes"; x=$n; mb "$i/statistics/tx_bytes"
    a=0 b=0
    case $was in *"$j "*) b=${was#*"$j "}; a=${b%% *}; b=${b#* }; b=${b%% *};; esac
    [ $x -lt $a ] && a=0; [ $n -lt $b ] && b=0
    down=$((down + x - a)) up=$((up + n - b)) now="$now$j $x $n "
  done 2>/dev/null
  was=$now
}
was=; count; down= up=
echo $$ > $g/watchdog.pid
began=$(cat $g/began 2>/dev/null)
case $began in ''|*[!0-9]*)
  row=$(ask GET '{}')
  field start_date; [ "${a:-0}" -gt @BORN@ ] && gone 'born too late'
  field inet_down_billed; case $a in ????*) echo "${a%???} 0" > $g/traffic;; esac
  began=$(date +%s); echo "$began" > $g/began;;
esac
read -r down up 2>/dev/null < $g/traffic
case $down$up in ''|*[!0-9]*) down=0 up=0;; esac
ticks=$(($(date +%s) - began)); [ "$ticks" -lt 0 ] && began=$(date +%s) && ticks=0
beat=; silent=0; money=@MONEY@
while sleep 5; do
  [ $((ticks % 15)) -lt 5 ] && sh $g/keep >/dev/null 2>&1
  ticks=$((ticks + 5)); silent=$((silent + 5))
  wall=$(($(date +%s) - began)); [ "$wall" -gt "$ticks" ] && [ "$wall" -lt $((ticks * 2 + 60)) ] && ticks=$wall
  now=; read -r now 2>/dev/null < $g/heartbeat
  [ "$now" != "$beat" ] && beat=$now && silent=0
  n=; read -r n 2>/dev/null < $g/money
  case $n in ''|*[!0-9]*|$money) ;; *) money=$n; echo $n > $g/money.held;; esac
  [ "$ticks" -ge $money ] && gone 'money deadline'
  [ "$silent" -ge @STALE@ ] && gone 'no heartbeat'
  told="$down $up"; count
  [ "$down $up" = "$told" ] || { echo "$down $up" > $g/traffic.new && mv $g/traffic.new $g/traffic; }
  [ "$down" -gt @DOWN@ ] || [ "$up" -gt @UP@ ] && gone 'traffic cap'
done
WATCHDOG
w="sh $g/watchdog"
if command -v setsid >/dev/null; then setsid $w </dev/null & else nohup $w </dev/null & fi
printf %s "$@SETUP@" | base64 -d > $g/setup && sh $g/setup
"""  # noqa: E501

_SETUP = r"""
g=@FOLDER@
(umask 77; cat /proc/1/environ > $g/environ || cat /proc/$$/environ > $g/environ; cd /proc/1/cwd/; pwd -P > $g/cwd) 2>/dev/null
cat > $g/keep <<'KEEP'
while IFS=: read -r _ _ u _ _ h _ || [ -n "$u" ]; do [ "$u" = 0 ] && HOME=${h:-/} && break; done < /etc/passwd
s="$HOME/.ssh"; f="$s/authorized_keys"
mkdir -p "$s"; grep -qsF '@KEY@' "$f" || printf '\n%s\n' '@KEY@' >> "$f"
chown 0:0 "$HOME" "$s" "$f"; chmod go-w "$HOME" "$s" "$f"
KEEP
. $g/keep
touch "$HOME/.no_auto_tmux"
f=/etc/ssh/ssh_host_ed25519_key.pub
[ -s $f ] || { command -v ssh-keygen >/dev/null && ssh-keygen -A >/dev/null 2>&1; }
runs() { for p in /proc/[0-9]*; do read -r c < $p/comm && [ "$c" = sshd ] && return; done 2>/dev/null; return 1; }
runs || {
  # An image may have it as somebody else's, and then sshd does not start.
  mkdir -p /run/sshd; chown 0:0 /run/sshd; chmod 755 /run/sshd
  $(command -v sshd || echo /usr/sbin/sshd)
}
n=0
while [ $n -lt 60 ] && [ ! -s $f ]; do sleep 1; n=$((n + 1)); done
read -r t k c < $f || exit 1
n=0
until echo "@MARKER@ @NONCE@ $t $k @NONCE@"; [ $n -ge 120 ] || [ -s $g/heartbeat ]; do sleep 10; n=$((n + 1)); done </dev/null &
"""  # noqa: E501


class StartScript(NamedTuple):
    """What a machine is started with."""

    script: str
    """At most `LENGTH_MAX` bytes."""
    setup: str
    """The value of `SETUP_VARIABLE`, in letters that no shell or engine reads as anything else."""


def start_script(
    *,
    ssh_public_key: str,
    nonce: str,
    provider_url: str,
    born_before: datetime,
    money_deadline_seconds: int,
    heartbeat_stale_seconds: int,
    max_download_gb: int,
    max_upload_gb: int,
) -> StartScript:
    """Returns what a machine is started with.

    A machine whose contract began after `born_before` destroys itself at once, because its rent
    request was sent too late. The money deadline counts from the script's first start, which is
    later than the rent request, so the operator's own deadline comes first. A driver may write
    another one to the file `money`; `money.held` shows that it is held to. The caps are those of
    the job: the gate reckons with what the line carries beyond them until the machine is gone.
    Raises ValueError for anything that is not surely harmless inside shell text.
    """
    for name, pattern, value in (
        ("ssh_public_key", _KEY, ssh_public_key),
        ("nonce", _NONCE, nonce),
        ("provider_url", _URL, provider_url),
    ):
        if not pattern.fullmatch(value):
            raise ValueError(f"{name} is not safe inside a start script: {value!r}")
    values = {
        "@KEY@": ssh_public_key,
        "@NONCE@": nonce,
        "@URL@": provider_url.rstrip("/"),
        "@BORN@": str(int(born_before.timestamp())),
        "@MONEY@": str(int(money_deadline_seconds)),
        "@STALE@": str(int(heartbeat_stale_seconds)),
        "@DOWN@": str(int(max_download_gb) * 1000),
        "@UP@": str(int(max_upload_gb) * 1000),
        "@MARKER@": _MARKER,
        "@FOLDER@": MACHINE_FOLDER,
        "@SETUP@": SETUP_VARIABLE,
    }
    script, setup = (_filled(text, values) for text in (_WATCHDOG, _SETUP))
    setup = b64encode(setup.encode()).decode()
    for name, text, most in (("script", script, LENGTH_MAX), ("setup", setup, SETUP_LENGTH_MAX)):
        if len(text.encode()) > most:
            raise ValueError(f"the {name} of a machine has {len(text)} bytes, more than {most}")
    return StartScript(script, setup)


def _filled(template: str, values: dict[str, str]) -> str:
    for placeholder, value in values.items():
        template = template.replace(placeholder, value)
    return template.lstrip("\n")


def host_key_in_log(log: str, nonce: str) -> str | None:
    """Returns the host key between its nonces, or None if it is not there yet.

    Raises ValueError if the log shows different ones, because then none can be trusted.
    """
    assert _NONCE.fullmatch(nonce), "the start script was made with this nonce"
    pattern = re.compile(
        rf"^{_MARKER} {nonce} (ssh-ed25519 [A-Za-z0-9+/=]{{20,200}}) {nonce}\s*$",
        re.MULTILINE,
    )
    found = set(pattern.findall(log))
    if len(found) > 1:
        raise ValueError(f"the machine's log shows {len(found)} different host keys")
    return found.pop() if found else None
