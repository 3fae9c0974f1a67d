"""An OCI image whose program answers on a port: this machine's Perl, which every Debian has, and what it needs."""

from __future__ import annotations

import platform
import re
import subprocess
from pathlib import Path

import oci

PERL = Path("/usr/bin/perl")
PLATFORM = {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}[platform.machine()]
"""What emulated hosts on this machine are."""
_ANSWER = r"""
use strict;
use IO::Socket::INET;
my ($port, $said) = @ARGV;
my $door = IO::Socket::INET->new(LocalAddr => "127.0.0.1:$port", Listen => 5, ReuseAddr => 1) or die "$!";
while (my $caller = $door->accept) {
    while (<$caller>) { last if /^\r?\n$/ }
    opendir(my $root, "/") or die "$!";
    my $body = join(" ", $said, "uid=$<", grep { !/^\./ } sort(readdir($root)));
    print $caller "HTTP/1.0 200 OK\r\nContent-Length: " . length($body) . "\r\n\r\n" . $body;
    close $caller;
}
"""


def write(path: Path, said: str, *, port: int) -> Path:
    """It answers every request with ``said``, its own user and the names in its own ``/``."""
    asked = subprocess.run([PERL, "-e", "print grep /perl-base/, @INC"], capture_output=True, text=True, check=True)
    modules = Path(asked.stdout)
    linked = subprocess.run(["ldd", PERL], capture_output=True, text=True, check=True).stdout
    libraries = [Path(name) for name in re.findall(r"(/\S+) \(0x", linked)]
    files = [PERL, *libraries, *(file for file in sorted(modules.rglob("*")) if file.is_file())]
    names = {str(file).lstrip("/"): file.read_bytes() for file in files}
    folders = sorted({str(parent) for name in names for parent in Path(name).parents} - {"."})
    layer = [*map(oci.folder, folders), *(oci.entry(name, data) for name, data in sorted(names.items()))]
    layer.append(oci.entry("answer.pl", _ANSWER, mode=0o644))
    config = {"Entrypoint": [str(PERL), "/answer.pl", str(port), said]}
    return oci.image(path, layer, architecture=PLATFORM.partition("/")[2], config=config)
