"""Every snippet of the README and the docs runs, and what the pages quote from an example the example prints."""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))
FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)``` *$", re.MULTILINE | re.DOTALL)

# The first author and the year of "Levine (2018)", "Kakade and Langford (2002)", "Ziebart, Bagnell and Dey (2010)".
CITATION = re.compile(r"([A-Z][\w-]+)(?:,? (?:and )?[A-Z][\w-]+| et al\.)* \(((?:19|20)\d\d)\)")


@dataclass(frozen=True)
class Snippet:
    """A fenced block of a page: its info string, its text, and the line of the page that the text starts on."""

    page: Path
    info: str
    text: str
    line: int


def snippets(page: Path) -> list[Snippet]:
    text = page.read_text()
    found = []
    for match in FENCE.finditer(text):
        indent = len(match["indent"])
        body = "".join(line[indent:] or "\n" for line in match["body"].splitlines(keepends=True))
        found.append(Snippet(page, match["info"].strip(), body, text.count("\n", 0, match.start("body")) + 1))
    return found


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


ALL = [snippet for page in PAGES for snippet in snippets(page)]
PYTHON = {page: [s for s in ALL if s.page == page and s.info == "python"] for page in PAGES}
COMMANDS = sorted(
    {line[2:] for s in ALL if s.info == "console" for line in s.text.splitlines() if line.startswith("$ cai ")}
)
QUOTES = [s for s in ALL if s.info.startswith("text title=")]


def environment() -> dict[str, str]:
    """The variables of a child process: this checkout first on the path, one thread, no window."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "COLUMNS": "120"}


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300
    )


@pytest.mark.parametrize("page", [page for page in PAGES if PYTHON[page]], ids=name)
def test_python_snippets_of_the_page_run_in_order(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    namespace: dict[str, object] = {"__name__": "__page__"}
    for snippet in PYTHON[page]:
        padding = "\n" * (snippet.line - 1)  # so that a traceback names the line of the page
        exec(compile(padding + snippet.text, str(page), "exec"), namespace)
    capsys.readouterr()


def test_cited_works_are_among_the_references() -> None:
    """What a doc string or a page cites as "Puterman (1994)" has an entry "- Puterman, M. L. (1994)." to point to."""
    references = (ROOT / "docs" / "references.md").read_text().split("\n- ")
    files = [*PAGES, *(ROOT / "cai").rglob("*.py"), *(ROOT / "models").glob("*.py")]
    cited = {found for path in files for found in CITATION.findall(" ".join(path.read_text().split()))}
    assert cited
    missing = {(a, y) for a, y in cited if not any(r.startswith(f"{a}, ") and f"({y})" in r for r in references)}
    assert missing == set()


def test_examples_of_the_readme_are_short() -> None:
    examples = PYTHON[ROOT / "README.md"]
    assert examples
    assert all(len([line for line in example.text.splitlines() if line.strip()]) <= 15 for example in examples)


def test_fences_are_of_the_kinds_that_are_checked() -> None:
    """A block of Python that is not to run says so by `notest`; anything else would slip past these tests."""
    unknown = [s for s in ALL if not re.fullmatch(r"python( notest)?|sh|console|text|text title=\"[^\"]+\"", s.info)]
    assert [(name(s.page), s.line, s.info) for s in unknown] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_command_of_the_docs_runs(command: str, tmp_path: Path) -> None:
    done = run("-m", *shlex.split(command), folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def outputs() -> dict[str, subprocess.CompletedProcess[str]]:
    """What each example of this session printed, filled as they run."""
    return {}


def output_of(example: Path, outputs: dict[str, subprocess.CompletedProcess[str]], folder: Path) -> str:
    key = name(example)
    if key not in outputs:
        outputs[key] = run(str(example), folder=folder)
    assert outputs[key].returncode == 0, outputs[key].stderr
    return outputs[key].stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=name)
def test_example_runs_and_prints_what_the_pages_quote(
    example: Path, outputs: dict[str, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    printed = output_of(example, outputs, tmp_path)
    for quote in QUOTES:
        if shlex.split(quote.info)[1] == f"title={name(example)}":
            assert quote.text.strip("\n") in printed, f"{name(quote.page)}, line {quote.line}"


def test_quotes_name_an_example_that_exists() -> None:
    titles = {shlex.split(quote.info)[1].removeprefix("title=") for quote in QUOTES}
    assert titles <= {name(example) for example in EXAMPLES}
    assert [name(quote.page) for quote in QUOTES if not quote.text.strip()] == []
