"""Builds the images with buildah, without a registry, and writes each as an archive with its bill of materials.

`build.py [operator] [trainer] [evaluator]` leaves `build/images/<name>.tar`, `<name>.cdx.json` and, last,
`images.json`. The base that the Dockerfiles take from a registry elsewhere is bootstrapped from Debian's archive.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import sbom
from sluice_devcluster.files import locked, write_atomic
from sluice_devcluster.reporting import Reporter, default_reporter

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "build" / "images"
"""Where the archives go; Git ignores it."""
NAMES = ("operator", "evaluator", "trainer")
"""All images, small ones first."""
SUITE = "trixie"
"""Debian's release of the base."""
BASE = f"localhost/sluice/base:{SUITE}-1"
"""The bootstrapped base; the number grows with its recipe."""
MIRROR = "http://deb.debian.org/debian"
"""Debian's archive; its packages are signed."""
CERTIFICATES = "/etc/ssl/certs"
"""The machine's certificate authorities, for what is downloaded during a build."""
FORBIDDEN = {"operator": {"torch", "python3-torch", "ray", "transformers", "peft"}, "evaluator": {"torch", "ray"}}
"""Packages that an image must not hold, by image."""


class ImageError(RuntimeError):
    """An image could not be built, or holds what it must not; the message says what to do."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image that was built."""

    name: str
    """`operator`, `evaluator` or `trainer`."""
    reference: str
    """Name under which the archive brings it, as a pod names it."""
    id: str
    """Digest of its configuration."""
    size: int
    """Bytes of its root file system."""
    archive: str
    """File beside `images.json`."""
    archive_size: int
    """Bytes of the archive."""
    sbom: str
    """File beside `images.json`."""
    packages: int
    """Debian packages and Python distributions inside."""


def buildah(*arguments: str, log: Path | None = None) -> str:
    """Run buildah as root on overlay storage and return its standard output.

    Raises:
        ImageError: it failed; the message ends with its last lines.
    """
    environment = {**os.environ, "STORAGE_DRIVER": "overlay"}
    done = subprocess.run(
        ["buildah", *arguments], cwd=ROOT, env=environment, text=True, capture_output=True, check=False
    )
    if log is not None:
        log.write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode != 0:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise ImageError(f"buildah {arguments[0]} ended with {done.returncode}:\n{last}")
    return done.stdout.strip()


def have_base() -> bool:
    """Whether the base is in buildah's storage."""
    return BASE in buildah("images", "--format", "{{.Name}}:{{.Tag}}").splitlines()


def bootstrap_base(reporter: Reporter) -> None:
    """Make the base from Debian's archive: the packages of `debian:trixie-slim`, without documentation.

    Raises:
        ImageError: debootstrap failed.
    """
    with tempfile.TemporaryDirectory(prefix="sluice-base-") as scratch, reporter.stage(f"bootstrap Debian {SUITE}"):
        root = Path(scratch) / "root"
        command = ["debootstrap", "--variant=minbase", "--include=ca-certificates", SUITE, str(root), MIRROR]
        done = subprocess.run(command, text=True, capture_output=True, check=False)
        if done.returncode != 0:
            raise ImageError("debootstrap failed:\n" + "\n".join((done.stdout + done.stderr).splitlines()[-10:]))
        _slim(root)
        archive = Path(scratch) / "base.tar"
        subprocess.run(["tar", "-C", str(root), "--numeric-owner", "-cf", str(archive), "."], check=True)
        container = buildah("from", "scratch")
        try:
            buildah("add", "-q", container, str(archive), "/")
            paths = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
            buildah("config", "--cmd", "bash", "--env", f"PATH={paths}", container)
            buildah("commit", "-q", container, BASE)
        finally:
            buildah("rm", container)


def _slim(root: Path) -> None:
    """Remove what Debian's slim images leave out: caches, manuals, translations; licences stay."""
    for pattern in ("var/cache/*", "var/lib/apt/lists/*", "var/log/*", "usr/share/man/*", "usr/share/locale/*"):
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for path in root.glob("usr/share/doc/*/*"):
        if path.name != "copyright" and not path.is_dir():
            path.unlink()
    # apt runs these on every installation in an image made of layers.
    (root / "etc/dpkg/dpkg.cfg.d/slim").write_text(
        "path-exclude /usr/share/man/*\npath-exclude /usr/share/locale/*\npath-exclude /usr/share/doc/*\n"
        "path-include /usr/share/doc/*/copyright\n"
    )
    (root / "etc/apt/apt.conf.d/slim").write_text('Dir::Cache::pkgcache "";\nDir::Cache::srcpkgcache "";\n')


def reference_of(name: str, torch: str) -> str:
    """Return the reference of an image, as the chart's defaults name it."""
    tag = f"{version('sluice')}-{torch}" if name == "trainer" else version("sluice")
    return f"docker.io/sluice/{name}:{tag}"


def build(name: str, torch: str, output: Path, reporter: Reporter) -> Image:
    """Build one image, and write its archive and its bill of materials.

    Raises:
        ImageError: the build failed, or the image holds a package that it must not hold.
    """
    reference = reference_of(name, torch)
    arguments = {"BASE": BASE, "VERSION": version("sluice"), "REVISION": _revision()}
    if name == "trainer":
        arguments["TORCH"] = torch
        if index := os.environ.get("TORCH_INDEX"):
            arguments["TORCH_INDEX"] = index
    options = [f"--build-arg={key}={value}" for key, value in arguments.items()]
    with reporter.stage(f"build {reference}"):
        buildah(
            *("bud", "--layers", "--pull-never", "--isolation=chroot", f"--volume={CERTIFICATES}:{CERTIFICATES}:ro"),
            *(*options, "-f", f"images/{name}/Dockerfile", "-t", reference, "."),
            log=output / f"{name}.log",
        )
    with _mounted(reference) as root:
        inside = sbom.packages(root)
        size = sum(path.lstat().st_size for path in root.rglob("*") if path.is_file() or path.is_symlink())
    found = FORBIDDEN.get(name, set()) & {package.name for package in inside}
    if found:
        raise ImageError(
            f"image {name} holds {', '.join(sorted(found))}, which it must not: see images/{name}/Dockerfile"
        )
    write_atomic(output / f"{name}.cdx.json", sbom.document(reference, version("sluice"), inside).encode(), mode=0o644)
    archive = output / f"{name}.tar"
    with reporter.stage(f"write {archive.name}"):
        aside = output / f".{name}.tar"
        aside.unlink(missing_ok=True)
        buildah("push", "-q", reference, f"docker-archive:{aside}:{reference}")
        aside.rename(archive)
    return Image(
        name=name,
        reference=reference,
        id=buildah("inspect", "--type", "image", "--format", "{{.FromImageID}}", reference),
        size=size,
        archive=archive.name,
        archive_size=archive.stat().st_size,
        sbom=f"{name}.cdx.json",
        packages=len(inside),
    )


@contextmanager
def _mounted(reference: str) -> Iterator[Path]:
    """Mount an image's root file system while the block runs."""
    container = buildah("from", "--pull-never", reference)
    try:
        yield Path(buildah("mount", container))
    finally:
        buildah("rm", container)


def _revision() -> str:
    done = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], text=True, capture_output=True, check=False)
    return done.stdout.strip() or "unknown"


def record(images: Sequence[Image], output: Path) -> None:
    """Write `images.json`, with the images of earlier builds that were not built anew."""
    path = output / "images.json"
    known = {each["name"]: each for each in json.loads(path.read_text())} if path.exists() else {}
    known.update({image.name: asdict(image) for image in images})
    text = json.dumps([known[name] for name in NAMES if name in known], indent=2) + "\n"
    write_atomic(path, text.encode(), mode=0o644)


def main(argv: Sequence[str] | None = None) -> int:
    """Build the images that are named; 2 when a tool is missing or a build failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(NAMES), metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--torch", default="cpu", choices=("cpu", "cuda", "rocm"), help="torch of the trainer's image")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args(argv)
    reporter = default_reporter()
    unknown = sorted(set(arguments.names) - set(NAMES))
    missing = [tool for tool in ("buildah", "debootstrap") if shutil.which(tool) is None]
    if unknown or missing or os.geteuid() != 0:
        what = f"no image {', '.join(unknown)}" if unknown else f"needs root and {', '.join(missing) or 'root'}"
        print(f"images/build.py: {what}; with Docker: docker build -f images/NAME/Dockerfile .", file=sys.stderr)
        return 2
    arguments.output.mkdir(parents=True, exist_ok=True)
    try:
        with locked(arguments.output / ".lock", waiting=lambda: reporter.note("waiting for another build to end")):
            if not have_base():
                bootstrap_base(reporter)
            images = [build(name, arguments.torch, arguments.output, reporter) for name in arguments.names]
            record(images, arguments.output)
    except ImageError as error:
        print(f"images/build.py: {error}", file=sys.stderr)
        return 2
    for image in images:
        print(f"{image.reference:40} {image.size / 1e6:7.0f} MB  {image.packages:4} packages  {image.archive}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
