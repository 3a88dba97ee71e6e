"""The commands that the pages for users show: README.md and what is in ``wheeltimer/docs``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
DOCS: Final = ROOT / "wheeltimer" / "docs"
PAGES: Final = {
    path.name: path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("clients/*")))
}
RECIPES: Final = sorted(path for path in DOCS.glob("recipes/*") if path.is_file())

# What stands in a line of text and begins so is a command, where words follow.
_PROGRAMS: Final = (
    ".", "source", "wheeltimer", ".venv/bin/wheeltimer", "python", "python3", "pip", "pytest", "systemctl",
    "systemd-analyze", "journalctl", "nc", "ncat", "telnet", "curl", "openssl", "chronyc",
    "eval", "export", "node", "java", "apt", "apt-get", "docker", "sudo", "git", "bash", "sh", "rm", "mv",
)  # fmt: skip
_TOGETHER: Final = re.compile(r"(\\|&&|\|)$")


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of this language."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[str]:
    """What the page tells its reader to type, each once: blocks of sh, lines after "$ ", words in a line."""
    found = [command for block in blocks(page, "sh") for command in _statements(block)]
    if page.endswith(".md"):
        text = re.sub(r"^```.*?^```", "", PAGES[page], flags=re.DOTALL | re.MULTILINE)
        found += re.findall(r"^\$ (.*)$", PAGES[page], re.MULTILINE)
        for words in re.findall(r"`([^`]+)`", text):
            if (words.split()[0] in _PROGRAMS and len(words.split()) > 1) or words.startswith("./"):
                found.append(" ".join(words.split()))
    else:  # a program: how it is started stands in its first comment
        found += re.findall(r"^// +((?:node|java) .*)$", PAGES[page], re.MULTILINE)
    return list(dict.fromkeys(found))


def _statements(block: str) -> list[str]:
    """Lines of a shell, those that go on joined."""
    statements: list[str] = []
    open_line = ""
    for line in block.splitlines():
        open_line = f"{open_line}\n{line}" if open_line else line
        loops = len(re.findall(r"\b(?:until|while|for)\b", open_line))
        if _TOGETHER.search(line) or loops > len(re.findall(r"\bdone\b", open_line)):
            continue
        if open_line.strip():
            statements.append(open_line.strip())
        open_line = ""
    return statements
