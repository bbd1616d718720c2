# SPDX-License-Identifier: Apache-2.0
"""Lets PyPI's torch, which is built for CUDA, run on the CPU alone: gives it stand-ins for the CUDA libraries.

The wheel's own libraries name a few gigabytes of CUDA libraries that must be there when torch is imported, though
nothing of them is called on the CPU. For each one that is missing this writes a library of the same name next to
torch's, whose functions do nothing but return 100 (cudaErrorNoDevice, or another failure). Needs gcc and binutils.
"""
import pathlib
import re
import subprocess
import sysconfig

REAL = ("libcuda.so.1", "libcudart.so.13", "libcudart.so.12")  # loaded when a device is asked for; from PyPI


def needed(library):
    text = subprocess.run(["readelf", "-d", library], check=True, capture_output=True, text=True).stdout
    return re.findall(r"\(NEEDED\).*\[(.*)\]", text)


def undefined(library):
    """(symbol, version or None) of everything the library takes from others."""
    text = subprocess.run(["nm", "-D", "--undefined-only", library], check=True, capture_output=True, text=True).stdout
    for line in text.splitlines():
        name, _, version = line.split()[-1].partition("@")
        yield name, version.lstrip("@") or None


def versions(library):
    """{version: the library that must define it}."""
    text = subprocess.run(["readelf", "-V", "-W", library], check=True, capture_output=True, text=True).stdout
    _, _, needs = text.partition("Version needs section")
    return {version: file for file, block in re.findall(r"File: (\S+)(.*?)(?=File:|$)", needs, re.DOTALL)
            for version in re.findall(r"Name: (\S+)", block)}


def by_prefix(symbol, libraries):
    """The owner of a function without a version: cusparseLtInit is of libcusparseLt.so.0."""
    prefix = {name: name[3:].split(".so")[0].split("_")[0].lower() for name in libraries}
    owners = [name for name in libraries if symbol.lower().startswith(prefix[name])]
    return max(owners, key=lambda name: len(prefix[name]), default=None)


def write_stub(name, version, symbols, folder):
    source = "".join(f"int {symbol}(void) {{ return 100; }}\n" for symbol in sorted(symbols))
    script = folder / f"{name}.map"
    script.write_text(f"{version} {{ global: *; }};\n")
    command = ["gcc", "-shared", "-fPIC", "-w", "-fno-builtin", "-x", "c", "-", "-o", folder / name, f"-Wl,-soname,{name}",
               f"-Wl,--version-script={script}"]
    subprocess.run(command, input=source, text=True, check=True)
    script.unlink()


def main():
    folder = pathlib.Path(sysconfig.get_paths()["purelib"]) / "torch" / "lib"
    libraries = sorted(folder.glob("*.so*"))
    there = {library.name for library in libraries}
    missing = {name for library in libraries for name in needed(library)
               if re.match(r"lib(cu|nv|nccl)", name) and name not in there and name not in REAL}
    symbols, version_of = {name: set() for name in missing}, {}
    for library in libraries:
        owners = versions(library)
        version_of.update({file: version for version, file in owners.items()})
        for symbol, version in undefined(library):
            owner = owners.get(version) if version else by_prefix(symbol, missing)
            if owner in missing:
                symbols[owner].add(symbol)
    for name, functions in symbols.items():
        write_stub(name, version_of.get(name, name), functions, folder)
        print(f"{name}: {len(functions)} functions that do nothing")


if __name__ == "__main__":
    main()
