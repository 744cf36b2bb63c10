"""The machine's start script: watchdog first, then the driver's key, then the host key to the log.

It runs in the environment that the container's image gives its first process, which an SSH session
does not get; so it keeps that environment, and the working folder, for the workload.

It is POSIX shell and needs only what nearly every container image has. The host's owner can read
it, so it contains no secret: only a public key, a nonce, an address and three numbers. A machine
that was stopped runs it again when it comes back, so the time of the first start is stored.
"""

import re
from datetime import datetime

from gpujob.api.transport import MACHINE_FOLDER

LENGTH_MAX = 4000
"""The provider takes 4,048 bytes (vastsim/FACTS.md, Rent request)."""

_KEY = re.compile(r"ssh-ed25519 [A-Za-z0-9+/=]{20,200}")
_NONCE = re.compile(r"[0-9a-f]{16,64}")
_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]/_-]{1,200}")

_MARKER = "gpujob-host-key"

_TEMPLATE = r"""
g=@FOLDER@; mkdir -p $g; chmod 700 $g
(umask 77; cat /proc/1/environ > $g/environ || cat /proc/$$/environ > $g/environ; cd /proc/1/cwd/ && pwd -P > $g/cwd) 2>/dev/null
while IFS=: read -r _ _ u _ _ h _; do [ "$u" = 0 ] && HOME=${h:-/} && break; done < /etc/passwd
cat > $g/watchdog <<'WATCHDOG'
u="@URL@/api/v0/instances/$CONTAINER_ID/"; g=@FOLDER@; s="$1/.ssh"; f="$s/authorized_keys"
key() {
  mkdir -p "$s"; grep -qsF '@KEY@' "$f" || printf '\n%s\n' '@KEY@' >> "$f"
  chown 0:0 "$1" "$s" "$f"; chmod go-w "$1" "$s" "$f"
}
if [ "$2" ]; then key "$1"; exit; fi
echo $$ > $g/watchdog.pid
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
began=$(cat $g/began 2>/dev/null)
case $began in ''|*[!0-9]*)
  a=$(ask GET '{}'); a=${a#*'"start_date":'}; a=${a# }; a=${a%%[!0-9]*}
  [ "${a:-0}" -gt @BORN@ ] && gone 'born too late'
  began=$(date +%s); echo "$began" > $g/began;;
esac
ticks=$(($(date +%s) - began)); [ "$ticks" -lt 0 ] && began=$(date +%s) && ticks=0
beat=; silent=0
while sleep 5; do
  key "$1"
  ticks=$((ticks + 5)); silent=$((silent + 5))
  wall=$(($(date +%s) - began)); [ "$wall" -gt "$ticks" ] && [ "$wall" -lt $((ticks * 2 + 60)) ] && ticks=$wall
  now=$(cat $g/heartbeat 2>/dev/null)
  [ "$now" != "$beat" ] && beat=$now && silent=0
  [ "$ticks" -ge @MONEY@ ] && gone 'money deadline'
  [ "$silent" -ge @STALE@ ] && gone 'no heartbeat'
done
WATCHDOG
w="sh $g/watchdog"
if command -v setsid >/dev/null; then setsid $w "$HOME" </dev/null & else nohup $w "$HOME" </dev/null & fi
$w "$HOME" key; touch "$HOME/.no_auto_tmux"
f=/etc/ssh/ssh_host_ed25519_key.pub
[ -s $f ] || { command -v ssh-keygen >/dev/null && ssh-keygen -A >/dev/null 2>&1; }
runs() { for p in /proc/[0-9]*; do read -r c < $p/comm && [ "$c" = sshd ] && return; done 2>/dev/null; return 1; }
runs || { mkdir -p /run/sshd; $(command -v sshd || echo /usr/sbin/sshd); }
n=0
while [ $n -lt 60 ] && [ ! -s $f ]; do sleep 1; n=$((n + 1)); done
if read -r t k c < $f; then echo "@MARKER@ @NONCE@ $t $k @NONCE@"; fi
"""  # noqa: E501


def start_script(
    *,
    ssh_public_key: str,
    nonce: str,
    provider_url: str,
    born_before: datetime,
    money_deadline_seconds: int,
    heartbeat_stale_seconds: int,
) -> str:
    """Returns the start script of a machine, at most `LENGTH_MAX` bytes.

    A machine whose contract began after `born_before` destroys itself at once, because its rent
    request was sent too late. The money deadline counts from the script's first start, which is
    later than the rent request, so the operator's own deadline comes first. Raises ValueError for
    anything that is not surely harmless inside shell text.
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
        "@MARKER@": _MARKER,
        "@FOLDER@": MACHINE_FOLDER,
    }
    script = _TEMPLATE.lstrip("\n")
    for placeholder, value in values.items():
        script = script.replace(placeholder, value)
    if len(script.encode()) > LENGTH_MAX:
        raise ValueError(f"the start script has {len(script)} bytes, more than {LENGTH_MAX}")
    return script


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
