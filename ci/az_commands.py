"""Has az read command lines, those in the file `lines` of a folder and those of the pages: see ci/az-commands.

In the file, a command is the number of its arguments and then each of them, all ended by NUL. In a page it is what a shell
makes of the page's blocks, and of what stands in backquotes, where `az` is a program that writes down its arguments.
The folder has stand-ins for the files that command lines name, too.
"""

import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PAGES = ["README.md", *map(str, sorted(Path("docs").glob("*.md"))), "builder/src/azure/golden/README.md"]
SCRIPTS = sorted(Path("builder/src/azure/golden").glob("*.sh"))
# Runs a block with no program but az. What it would ask for has an answer, so that the lines after it come to something.
RECORDER = r"""
PATH=/nowhere
command_not_found_handle() { return 0; }
az() { printf '%s\0' "$#" "$@" >>"$RECORD"; printf '00000000-0000-0000-0000-000000000000\n'; }
"""
# The answers of az to a command line that it understands; the second one before it would ask whether that is meant.
GOOD = ("Please run 'az login'", "Unable to prompt for confirmation as no tty available")
# Groups of commands that are no part of az itself.
EXTENSIONS = {"iot": "azure-iot", "connectedmachine": "connectedmachine", "network bastion": "bastion"}
# Options whose value is a file's name.
FILES = ("--file", "--path", "--certificate-path", "--content", "--template-file", "--cert", "--parameters")
# What has nothing to do with an account: it logs in, or looks at what is installed here.
PASSED_OVER = {("login",), ("extension", "show"), ("extension", "add"), ("--version",), ("version",)}


def commands(record: bytes) -> list[tuple[str, ...]]:
    fields, found = record.decode().split("\0")[:-1], []
    while fields:
        count = int(fields[0])
        found.append(tuple(fields[1 : count + 1]))
        fields = fields[count + 1 :]
    return found


def recorded(text: str) -> list[tuple[str, ...]]:
    """The az commands that a shell comes to in `text`."""
    # <appId> is a place for a value, "…" what was left out; neither is the shell's.
    text = re.sub(r"<([A-Za-z]+)>", r"\1", text)
    # What the pages leave to the reader's shell: GROUP=edge and the like.
    values = "".join(f": ${{{name}:={name.lower()}}}\n" for name in sorted(set(re.findall(r"\$\{?([A-Za-z_]+)\b", text))))
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "record"
        record.touch()
        subprocess.run(
            ["bash", "-c", RECORDER + values + text],
            cwd=folder,
            env={"RECORD": str(record), "HOME": folder},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
        return commands(record.read_bytes())


def split(text: str) -> tuple[list[str], str]:
    """The shell's blocks of a page, and the page without any block."""
    blocks: list[str] = []
    prose, language = [], None
    for line in text.splitlines():
        if line.strip().startswith("```"):
            language = None if language is not None else line.strip()[3:].split(" ")[0]
            if language in ("", "sh", "console"):
                blocks.append("")
        elif language is None:
            prose.append(line)
        elif language in ("", "sh", "console"):
            blocks[-1] += line + "\n"
    return blocks, "\n".join(prose)


def pages() -> dict[tuple[str, ...], str]:
    found: dict[tuple[str, ...], str] = {}
    for page in PAGES:
        blocks, prose = split(Path(page).read_text())
        spans = [re.sub(r"\s+", " ", span) for span in re.findall(r"`([^`]*\baz [a-z][^`]*)`", prose)]
        for piece in blocks + spans:
            here = recorded(piece)
            wanted = len(re.findall(r"(?:^\s*|\$\(|[|;&]\s*)az [a-z]", piece, re.M))
            if len(here) < wanted:
                sys.exit(f"{page}: of {wanted} az commands a shell came to {len(here)}:\n{piece}")
            for command in here:
                found.setdefault(command, page)
    for script in SCRIPTS:
        for hint in re.findall(r"""['"](az [a-z][^'"]*)['"]""", script.read_text()):
            for command in recorded(hint):
                found.setdefault(command, f"a hint of {script.name}")
    return found


def with_files(command: tuple[str, ...], folder: Path) -> list[str]:
    """The command with files that are there. The Bicep file is compiled by another download: its twin takes its place."""
    line = list(command)
    for place in range(1, len(line)):
        at, name = line[place][: line[place].startswith("@")], Path(line[place].lstrip("@"))
        if line[place - 1] not in FILES or (line[place - 1] in ("--cert", "--parameters") and not at):
            continue
        template = {"main.bicep": "azuredeploy.json", "azuredeploy.parameters.json": "azuredeploy.parameters.json"}
        suffix = name.suffix if name.suffix in (".json", ".pfx") else ".pem"
        line[place] = at + str(folder / template.get(name.name, "file" + suffix))
    return line


def asked(command: tuple[str, ...], folder: Path) -> str | None:
    """What az has against the command; None: nothing."""
    # A command that is only named, or not written out: is it there?
    named = "…" in command or not any(argument.startswith("-") for argument in command)
    line = with_files(command, folder)
    if named:
        words = [word.rstrip("…") for word in line]
        line = [*words[: next((i for i, word in enumerate(words) if not word or word[0] == "-"), len(words))], "--help"]
    run = subprocess.run(
        [sys.executable, "-m", "azure.cli", *line],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    good = run.returncode == 0 if named else any(answer in run.stderr for answer in GOOD)
    return None if good else (run.stderr.strip() or run.stdout.strip() or f"exit {run.returncode}")


def extension(command: tuple[str, ...], answer: str) -> str | None:
    """The extension that is missing, where that is all that az has against the command."""
    if "is misspelled or not recognized" not in answer and "requires the extension" not in answer:
        return None
    return EXTENSIONS.get(command[0]) or EXTENSIONS.get(" ".join(command[:2]))


def main() -> None:
    folder = Path(sys.argv[1])
    lines = pages()
    for command in commands((folder / "lines").read_bytes()):
        lines.setdefault(command, "the tests of the scripts")
    lines = {
        command: place
        for command, place in lines.items()
        if command[:2] not in PASSED_OVER and command[:1] not in PASSED_OVER
    }
    refused, unknown = 0, 0
    with ThreadPoolExecutor(2) as pool:
        answers = pool.map(lambda command: asked(command, folder), lines)
        for (command, place), answer in zip(lines.items(), answers, strict=True):
            if answer is None:
                continue
            told = "az " + " ".join(command)
            if missing := extension(command, answer):
                unknown += 1
                print(f"not looked at, the extension {missing} is missing: {told} ({place})")
            else:
                refused += 1
                print(f"REFUSED: {told} ({place})\n    " + answer.replace("\n", "\n    "))
    print(f"{len(lines)} command lines, {refused} refused, {unknown} not looked at")
    sys.exit(1 if refused else 0)


main()
