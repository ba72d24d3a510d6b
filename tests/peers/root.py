"""What the guest needs from the host: User-Mode Linux, a root folder with Debian's peers, and a
library for hosts whose CPU has more state than User-Mode Linux knows (xstate.c).

All of it is made once and kept in $PEERS_CACHE, by default /var/tmp/ppp-peers: about 255 MB, half a
minute. What the host lacks for it, `make packages` installs.
"""
from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

CACHE = Path(os.environ.get("PEERS_CACHE", "/var/tmp/ppp-peers"))
TREE = Path(__file__).parents[2]
GUEST_PACKAGES = ["ppp", "pptpd", "pptp-linux", "xl2tpd", "pppoe", "sstp-client", "strongswan-starter",
                  "strongswan-charon", "strongswan-swanctl", "libstrongswan-standard-plugins",
                  "libcharon-extra-plugins", "iperf3", "iproute2", "iputils-ping", "kmod", "tcpdump",
                  "iptables", "procps", "openssl", "ca-certificates", "ethtool", "python3", "dhcpcd-base"]
MODULES = Path("/usr/lib/uml/modules")

# The guest's PID 1, first part: hands over to the one of this boot, in the folder that the kernel's command line names.
INIT = r"""#!/bin/bash
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t hostfs -o "$SHARE" share /mnt && exec /bin/bash /mnt/init
"""


class GuestError(Exception):
    """The guest cannot be made, or is gone."""


def sh(*argv: str, **kw) -> str:
    """Run a command on the host; its standard output, or GuestError with its complaint."""
    result = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, **kw)
    if result.returncode:
        raise GuestError(f"{' '.join(argv)}: {(result.stderr or result.stdout).strip()[-2000:]}")
    return result.stdout


def prepare() -> tuple[Path, Path]:
    """Make what is missing; return the guest's root and the library to preload into linux.uml."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sh("make", "-s", "-C", str(TREE), "packages")
        return _root(), _library()


def _root() -> Path:
    root = CACHE / f"root-{hashlib.sha256(repr((GUEST_PACKAGES, INIT)).encode()).hexdigest()[:12]}"
    if root.exists():
        return root
    new = Path(f"{root}.new")
    shutil.rmtree(new, ignore_errors=True)
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    sh("mmdebstrap", "--variant=minbase", "--include=" + ",".join(GUEST_PACKAGES),
       "--dpkgopt=path-exclude=/usr/share/{doc,man,locale,info}/*", release["VERSION_CODENAME"], str(new))
    init = new / "sbin/peer-init"
    init.write_text(INIT)
    init.chmod(0o755)
    (new / "lib/modules").mkdir(parents=True, exist_ok=True)
    new.rename(root)
    return root


def _library() -> Path:
    source = Path(__file__).with_name("xstate.c")
    library = CACHE / f"xstate-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}.so"
    if not library.exists():
        sh("gcc", "-Wall", "-Wextra", "-O2", "-shared", "-fPIC", "-o", f"{library}.new", str(source))
        Path(f"{library}.new").rename(library)
    return library
