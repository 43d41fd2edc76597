"""The TypeScript client as a project of its own has it: packed, installed, compiled strictly, and run."""

import asyncio
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT
from tests.support.programs import typescript_client
from tests.support.serving import Serving
from tests.support.tokens import mint

PROGRAMS = Path(__file__).parent / "programs" / "typescript"
GUIDE = ROOT / "docs" / "client-typescript.md"
# What it needs at run time, and what a project of TypeScript has.
PACKAGES = [
    *("@bufbuild/protobuf", "@connectrpc/connect", "@connectrpc/connect-node"),
    *("typescript", "@types/node", "undici-types"),
]
STRICT = {
    "strict": True,
    "exactOptionalPropertyTypes": True,
    "noUncheckedIndexedAccess": True,
    "skipLibCheck": False,
    "target": "es2022",
    "types": ["node"],
}
pytestmark = pytest.mark.timeout(300)


def run(*command: str | Path, cwd: Path) -> str:
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def pack(directory: Path, *, destination: Path) -> Path:
    """Returns the tarball of a package, as a registry has it."""
    packing = ("npm", "pack", "--ignore-scripts", "--silent", "--pack-destination")
    return destination / run(*packing, destination, f"./{directory.name}", cwd=directory.parent).strip()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project without anything but the packed client and what it depends on, and with the guide's programs."""
    client, packed = typescript_client(), tmp_path_factory.mktemp("packed")
    tarballs = [pack(place, destination=packed) for place in [client, *(client / "node_modules" / p for p in PACKAGES)]]
    project = tmp_path_factory.mktemp("project")
    (project / "package.json").write_text(json.dumps({"name": "fresh", "private": True, "type": "module"}))
    run("npm", "install", "--offline", "--no-audit", "--no-fund", "--cache", packed / "cache", *tarballs, cwd=project)
    for program in PROGRAMS.iterdir():
        (project / program.name).write_text(program.read_text())
    for number, text in enumerate(guide()):
        (project / f"guide_{number}.mts").write_text(text)
    return project


def guide() -> list[str]:
    return re.findall(r"^```typescript\n(.*?)^```$", GUIDE.read_text(), re.DOTALL | re.MULTILINE)


def compile_in(project: Path, name: str, *files: str, **options: Any) -> Path:
    """Compiles files of a project, and returns the directory of what comes out."""
    configuration = {"compilerOptions": {**STRICT, **options, "outDir": name}, "files": files}
    (project / f"{name}.json").write_text(json.dumps(configuration))
    run("node", "node_modules/typescript/bin/tsc", "--project", f"{name}.json", cwd=project)
    return project / name


@pytest.fixture(scope="module")
def compiled(project: Path) -> Path:
    """The programs as Node runs them."""
    programs = ["module.mts", "common.cts", *(f"guide_{number}.mts" for number in range(len(guide())))]
    return compile_in(project, "nodenext", *programs, module="nodenext")


async def output(program: Path, *options: str, **variables: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "node",
        *options,
        str(program),
        cwd=program.parent,
        env={**os.environ, **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, f"{out.decode()}{err.decode()}"
    return out.decode()


async def test_a_strict_module_uses_what_the_package_exports(compiled: Path, running: Serving) -> None:
    caller = {"METAMORPH_TARGET": running.target, "METAMORPH_TOKEN": mint()}
    assert (await output(compiled / "module.mjs", **caller)).splitlines() == [
        "turnStarted turnFinished",
        "1",
        "string",
        "true",
        "NOT_FOUND SESSION_NOT_FOUND none",
        "CANCELLED false",
        "false",
        "google.rpc.ErrorInfo metamorph.chat.v1.Tool metamorph.chat.v1.ThinkingConfig",
    ]


async def test_a_program_of_commonjs_has_the_same_client(compiled: Path, running: Serving) -> None:
    caller = {"METAMORPH_TARGET": running.target, "METAMORPH_TOKEN": mint()}
    assert await output(compiled / "common.cjs", **caller) == "acme\n"


@pytest.mark.parametrize(
    ("module", "resolution", "programs"),
    [
        ("node16", "node16", ["module.mts", "common.cts"]),
        ("esnext", "bundler", ["module.mts"]),
        ("preserve", "bundler", ["module.mts", "common.cts"]),
    ],
)
def test_its_types_are_found_by_every_resolution(
    project: Path, module: str, resolution: str, programs: list[str]
) -> None:
    compile_in(project, f"{module}-{resolution}", *programs, module=module, moduleResolution=resolution)


async def test_programs_of_the_guide_run(compiled: Path, running: Serving) -> None:
    caller = {"METAMORPH_TARGET": running.target, "METAMORPH_TOKEN": mint()}
    printed = [await output(compiled / f"guide_{number}.mjs", **caller) for number in range(len(guide()))]
    assert len(printed) > 0
    assert all(printed)


async def test_a_browser_has_the_messages_and_is_told_what_to_do_about_the_client(project: Path) -> None:
    said, found = (await output(project / "browser.mjs", "--conditions=browser")).splitlines()
    assert re.search("runs in Node.*a service of yours.*server-sent events", said)
    count = run("node", "--eval", 'console.log(Object.keys(require("metamorph-client")).length)', cwd=project)
    assert found == f"NOT_FOUND: no session x {count.strip()}"


@pytest.mark.parametrize(
    "target",
    ["http://localhost:50051", "localhost", "localhost:0", "localhost:65536", ":50051", "a b:1", "1.2.3.4.5:1", ""],
)
async def test_a_bad_target_is_refused_with_the_right_forms(project: Path, target: str) -> None:
    program = project / "target.cjs"
    program.write_text(
        'const { MetamorphClient } = require("metamorph-client");\n'
        "try { new MetamorphClient(process.env.TARGET) } catch (error) { console.log(String(error)) }\n"
    )
    forms = "host:port, as grpc://host:port, or as grpcs://host:port for TLS"
    refusal = f"TypeError: {json.dumps(target)} is not the address of a server: name one as {forms}\n"
    assert await output(program, TARGET=target) == refusal


def test_every_generated_file_is_exported() -> None:
    generated = ROOT / "clients" / "typescript" / "src" / "gen"
    files = {f"./{path.relative_to(generated).with_suffix('.js')}" for path in generated.rglob("*_pb.ts")}
    exported = set(re.findall(r'export \* from "(.+)";', (generated / "index.ts").read_text()))
    assert exported == files
    assert not any("buf" in path for path in files)


CLOSED = """
import { setTimeout } from "node:timers/promises";
import { channel } from "%(modules)s/gen/channel.js";
import { MetamorphClient } from "%(modules)s/index.js";

channel.keepaliveTimeMs = 50;
const client = new MetamorphClient(process.env.METAMORPH_TARGET, { token: process.env.METAMORPH_TOKEN });
const watching = client.vault.watchVault({})[Symbol.asyncIterator]();
await watching.next();
client.close();
await watching.next().catch((error) => console.log(error.code));
await setTimeout(500);
console.log("alive");
"""


async def test_a_client_that_is_closed_with_an_open_stream_does_not_end_the_process(
    tmp_path: Path, running: Serving
) -> None:
    await running.caller().create_session()
    program = tmp_path / "closed.mjs"
    program.write_text(CLOSED % {"modules": typescript_client() / "dist" / "esm"})
    printed = await output(program, METAMORPH_TARGET=running.target, METAMORPH_TOKEN=mint())
    assert printed.splitlines()[-1] == "alive"
