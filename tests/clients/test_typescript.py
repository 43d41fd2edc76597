"""The TypeScript client as a project of its own has it: packed, installed, compiled strictly, and run."""

import asyncio
import json
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import ROOT
from tests.support.programs import require, typescript_client
from tests.support.serving import Serving
from tests.support.tokens import mint

CLIENT = ROOT / "clients" / "typescript"
PROGRAMS = Path(__file__).parent / "programs" / "typescript"
GUIDE = ROOT / "docs" / "client-typescript.md"
# What it needs at run time, and what a project of TypeScript has.
NEEDED = ["@bufbuild/protobuf", "@connectrpc/connect", "@connectrpc/connect-node"]
TYPESCRIPT = ["typescript", "@types/node", "undici-types"]
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
def tarballs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The client, what it depends on, and what a project of TypeScript has, each packed."""
    client, destination = typescript_client(), tmp_path_factory.mktemp("packed")
    places = {name: client / "node_modules" / name for name in [*NEEDED, *TYPESCRIPT]}
    return {name: pack(place, destination=destination) for name, place in [("client", client), *places.items()]}


def fresh(project: Path, *packages: Path) -> Path:
    """Returns a directory that has become a project with some packages and all programs of these tests."""
    (project / "package.json").write_text(json.dumps({"name": "fresh", "private": True, "type": "module"}))
    options = ("--offline", "--ignore-scripts", "--no-audit", "--no-fund", "--cache", project / "cache")
    run("npm", "install", *options, *packages, cwd=project)
    for program in PROGRAMS.iterdir():
        (project / program.name).write_text(program.read_text())
    for number, text in enumerate(guide()):
        (project / f"guide_{number}.mts").write_text(text)
    return project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tarballs: dict[str, Path]) -> Path:
    """A project without anything but the packed client and what it depends on."""
    return fresh(tmp_path_factory.mktemp("project"), *tarballs.values())


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory, tarballs: dict[str, Path]) -> Path:
    """A project of which npm has made a link to the client, whose own packages it does not see."""
    project = fresh(tmp_path_factory.mktemp("linked"), *(tarballs[name] for name in TYPESCRIPT), CLIENT)
    assert (project / "node_modules" / "metamorph-client").is_symlink()
    assert not (project / "node_modules" / "@bufbuild").exists()
    return project


def guide() -> list[str]:
    return re.findall(r"^```typescript\n(.*?)^```$", GUIDE.read_text(), re.DOTALL | re.MULTILINE)


def compile_in(project: Path, name: str, *files: str, **options: Any) -> Path:
    """Compiles files of a project, and returns the directory of what comes out."""
    configuration = {"compilerOptions": {**STRICT, **options, "outDir": name}, "files": files}
    (project / f"{name}.json").write_text(json.dumps(configuration))
    run("node", "node_modules/typescript/bin/tsc", "--project", f"{name}.json", cwd=project)
    return project / name


def compiled_for_node(project: Path) -> Path:
    programs = ["module.mts", "common.cts", *(f"guide_{number}.mts" for number in range(len(guide())))]
    return compile_in(project, "nodenext", *programs, module="nodenext")


@pytest.fixture(scope="module")
def compiled(project: Path) -> Path:
    """The programs as Node runs them."""
    return compiled_for_node(project)


async def output(program: Path, *arguments: str, options: Sequence[str] = (), **variables: str) -> str:
    process = await asyncio.create_subprocess_exec(
        "node",
        *options,
        str(program),
        *arguments,
        cwd=program.parent,
        env={**os.environ, **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, f"{out.decode()}{err.decode()}"
    return out.decode()


MODULE_PRINTS = [
    "turnStarted turnFinished",
    "100 true",
    "1",
    "string",
    "true",
    "NOT_FOUND SESSION_NOT_FOUND none",
    "CANCELLED false enough",
    "false",
    "true true",
    "true",
    "google.rpc.ErrorInfo metamorph.chat.v1.Tool metamorph.chat.v1.ThinkingConfig",
]


async def test_a_strict_module_uses_what_the_package_exports(compiled: Path, running: Serving) -> None:
    caller = {"METAMORPH_TARGET": running.target, "METAMORPH_TOKEN": mint()}
    assert (await output(compiled / "module.mjs", **caller)).splitlines() == MODULE_PRINTS


async def test_a_linked_client_is_all_that_a_strict_project_needs(linked: Path, running: Serving) -> None:
    caller = {"METAMORPH_TARGET": running.target, "METAMORPH_TOKEN": mint()}
    compiled = compiled_for_node(linked)
    assert (await output(compiled / "module.mjs", **caller)).splitlines() == MODULE_PRINTS
    assert await output(compiled / "common.cjs", **caller) == "acme\n"


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


def bundled_for_browsers(program: Path) -> Path:
    """Returns what a bundler makes of a program. It refuses what browsers do not have, such as Node's modules."""
    bundler = CLIENT / "node_modules" / ".bin" / "esbuild"
    require("node", hint="install Node 20, then `make tools`", installed=bundler)
    bundle = program.with_name("bundle.mjs")
    options = ("--bundle", "--platform=browser", "--format=esm", f"--outfile={bundle}", "--log-level=warning")
    run(bundler, program, *options, cwd=program.parent)
    return bundle


@pytest.mark.parametrize("bundling", [True, False], ids=["bundled", "conditions"])
async def test_a_browser_has_the_messages_and_is_told_what_to_do_about_the_client(
    project: Path, *, bundling: bool
) -> None:
    program = project / "browser.mjs"
    printed = await (
        output(bundled_for_browsers(program)) if bundling else output(program, options=["--conditions=browser"])
    )
    said, found = printed.splitlines()
    assert re.search("runs in Node.*a service of yours.*server-sent events", said)
    count = run("node", "--eval", 'console.log(Object.keys(require("metamorph-client")).length)', cwd=project)
    assert found == f"NOT_FOUND: no session x {count.strip()}"


async def test_a_stream_that_is_left_is_cancelled_at_the_server(project: Path) -> None:
    cancelled = "8"  # RFC 9113, section 7.
    printed = (await output(project / "leaving.mjs")).splitlines()
    assert printed == [cancelled, cancelled, cancelled, f"true {cancelled}"]


async def replies(project: Path, program: str) -> list[str]:
    return (await output(project / "replies.mjs", program)).splitlines()


async def test_a_reply_ends_soon_after_its_last_event_even_if_its_stream_does_not(project: Path) -> None:
    assert await replies(project, "end") == ["24 0 true"]


async def test_the_final_answer_takes_nothing_of_a_loop_beside_it(project: Path) -> None:
    assert await replies(project, "beside") == ["10 true 2", "2 undefined", "2 0"]


async def test_a_reply_that_is_over_listens_to_no_signal(project: Path) -> None:
    assert await replies(project, "listeners") == ["the issuer is asleep", "0"]


async def test_a_function_that_returns_no_token_is_asked_again_while_a_reply_is_resumed(project: Path) -> None:
    asleep = "the issuer is asleep"
    lost = f"UNAVAILABLE no token: {asleep} RangeError"
    assert await replies(project, "tokens") == [
        f"RangeError: {asleep} 0",
        f"2 {lost} {lost}",
        f"RangeError: {asleep} true",
    ]


async def test_what_is_wrong_is_said_where_it_is_used(project: Path) -> None:
    said = "TypeError: a stream of bytes is uploaded, and a piece of it is of type {}, not Uint8Array"
    assert (await output(project / "arguments.mjs")).splitlines() == [
        "UNAVAILABLE",
        "CANCELLED",
        "true",
        *(said.format(kind) for kind in ("string", "number", "object", "object")),
        "false true UNKNOWN",
    ]


async def test_large_messages_are_sent_beside_other_calls(project: Path, running: Serving) -> None:
    caller = {"METAMORPH_TARGET": running.target, "METAMORPH_TOKEN": mint()}
    printed = (await output(project / "large.mjs", **caller)).splitlines()
    assert printed == [" ".join(["COMPLETED"] * 4), "20 0", "RESOURCE_EXHAUSTED", "0"]


async def test_a_reply_has_the_revision_to_read_it_at(project: Path, running: Serving) -> None:
    program = project / "revision.mjs"
    program.write_text(
        'import { MetamorphClient } from "metamorph-client";\n'
        "const { METAMORPH_TARGET, METAMORPH_TOKEN } = process.env;\n"
        "const client = new MetamorphClient(METAMORPH_TARGET, { token: METAMORPH_TOKEN });\n"
        "const { sessionId } = await client.createSession();\n"
        'const reply = await client.start(sessionId, "Hello");\n'
        "const begun = reply.revision;\n"
        "await reply.final();\n"
        "const request = { sessionId, atLeastRevision: reply.revision };\n"
        "console.log(0n < begun && begun < reply.revision);\n"
        "console.log((await client.chat.listMessages(request)).messages.length);\n"
        "const again = await client.follow(reply.turnId);\n"
        "for await (const _ of again) if (again.revision) break;\n"
        "await again.final();\n"
        "console.log(again.revision >= reply.revision);\n"
        "client.close();\n"
    )
    said = await output(program, METAMORPH_TARGET=running.target, METAMORPH_TOKEN=mint())
    assert said.splitlines() == ["true", "2", "true"]


async def test_a_request_that_cannot_be_encoded_is_a_type_error_at_once(project: Path, running: Serving) -> None:
    program = project / "unencodable.cjs"
    program.write_text(
        'const { MetamorphClient } = require("metamorph-client");\n'
        "const client = new MetamorphClient(process.env.METAMORPH_TARGET, { onRetry: console.log });\n"
        'client.follow("turn_1", NaN).catch((error) => console.log(String(error))).finally(() => client.close());\n'
    )
    said = await output(program, METAMORPH_TARGET=running.target)
    assert re.fullmatch(r"TypeError: the request cannot be encoded: .*after_sequence.*NaN\n", said)


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
    generated = CLIENT / "src" / "gen"
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
