"""The text of a file that is to be chunked: plain text, Markdown, HTML, PDF.

Each function gives a title ('' if the file has none of its own) and a text whose paragraphs are
separated by blank lines.
"""

from __future__ import annotations

import html
import io
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from prag.records import PragError

if TYPE_CHECKING:
    from markdown_it.token import Token

_DROPPED = ("script", "style", "nav", "template", "noscript")  # HTML that is no text
_BLOCKS = (
    *("address", "article", "aside", "blockquote", "caption", "dd", "details", "div", "dl", "dt"),
    *("fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6"),
    *("header", "hr", "li", "main", "ol", "p", "pre", "section", "summary", "table", "tr", "ul"),
)
_CELLS = ("td", "th", "br")

_BOM = b"\xef\xbb\xbf"
_LINE_ENDS = re.compile("\r\n|[\r\v\f\x1c-\x1f\x85\u2028]")
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # but tab and newline
_FRONT_MATTER = re.compile(r"\A---[^\S\n]*\n(?:.*\n)*?(?:---|\.\.\.)[^\S\n]*(?:\n|\Z)")
_HIDDEN_HTML = re.compile(r"(?is)<!--.*?-->|<(script|style)\b.*?(?:</\1\s*>|\Z)|<[a-z/!?][^>]*>")


class Refused(Exception):  # noqa: N818 - it becomes an entry of a list, no user meets it
    """A file or record that is not taken; its argument says why and how to mend it."""


def decoded(data: bytes, start: int = 0) -> str:
    """Bytes as UTF-8, without the byte order mark that may begin a file.

    Args:
        start: where the bytes stand in their file, for the message.

    Raises:
        Refused: they are not UTF-8.
    """
    begin = len(_BOM) if start == 0 and data.startswith(_BOM) else 0
    try:
        return data[begin:].decode("utf-8")
    except UnicodeDecodeError as error:
        at = begin + error.start
        raise Refused(
            f"not UTF-8 at byte {start + at} of the file (0x{data[at]:02x}); convert it to UTF-8"
        ) from error


def clean(text: str) -> str:
    """Unicode NFC, lines ended by a newline, no control characters but newline and tab."""
    text = _LINE_ENDS.sub("\n", text).replace("\u2029", "\n\n")
    return unicodedata.normalize("NFC", _CONTROLS.sub("", text))


def from_markdown(text: str) -> tuple[str, str]:
    """The first `# ` heading, and the text without it and without markup.

    YAML front matter is left out. A heading in the text would run into the sentence that follows
    it; where there is no other text it stays. Of a link or picture the words stay, not the target;
    code stays as it is.
    """
    from markdown_it import MarkdownIt

    tokens = MarkdownIt("commonmark").enable("table").parse(_FRONT_MATTER.sub("", text))
    whole = "".join(_blocks(tokens))
    heads = (i for i, t in enumerate(tokens) if t.type == "heading_open" and t.tag == "h1")
    at = next(heads, None)
    if at is None:
        return "", whole
    rest = "".join(_blocks([*tokens[:at], *tokens[at + 3 :]]))  # without the heading's three
    return _inline(tokens[at + 1]), rest if rest.strip() else whole


def _blocks(tokens: Sequence[Token]) -> Iterator[str]:
    for token in tokens:
        if token.type == "inline":
            yield _inline(token)
        elif token.type in ("fence", "code_block"):
            yield f"{token.content}\n\n"
        elif token.type == "html_block":
            yield f"{html.unescape(_HIDDEN_HTML.sub(' ', token.content))}\n\n"
        elif token.type in ("td_close", "th_close"):
            yield "\n"
        elif token.nesting < 0:
            yield "\n\n"


def _inline(token: Token) -> str:
    parts = []
    for child in token.children or ():
        if child.type in ("text", "code_inline"):
            parts.append(child.content)
        elif child.type == "image":
            parts.append(_inline(child))
        elif child.type in ("softbreak", "hardbreak"):
            parts.append("\n")
    return "".join(parts)


def from_html(text: str) -> tuple[str, str]:
    """The `<title>` or else the first `<h1>`, and the text of the page.

    A first `<h1>` that says what the title says is not part of the text, if there is any other.
    Scripts, styles, navigation, templates and noscript are left out.

    Raises:
        Refused: the markup is too broken to be read.
        PragError: beautifulsoup4 is not installed.
    """
    try:
        from bs4 import BeautifulSoup, NavigableString, ParserRejectedMarkup
    except ImportError as error:
        raise missing("HTML", "beautifulsoup4") from error

    try:
        soup = BeautifulSoup(text, "html.parser")
    except ParserRejectedMarkup as error:
        raise Refused(f"not HTML that can be read ({error}); mend it or save it as text") from error
    titles = [_one_line(tag.get_text()) for tag in soup.find_all("title", limit=1)]
    for tag in soup.find_all([*_DROPPED, "title"]):
        tag.decompose()
    head = soup.find("h1")
    heading = _one_line(head.get_text()) if head else ""
    title = next(filter(None, [*titles, heading]), "")
    if head and heading == title and heading != _one_line(soup.get_text()):
        head.decompose()
    for node in soup.find_all(string=True):
        # A blank line of the source is no paragraph's end, except where it is shown as it is.
        if type(node) is NavigableString and node.find_parent("pre") is None:
            node.replace_with(re.sub(r"\s+", " ", node))
    for tag in soup.find_all(_BLOCKS):
        tag.insert_before("\n\n")
        tag.insert_after("\n\n")
    for tag in soup.find_all(_CELLS):
        tag.insert_after("\n")
    return title, soup.get_text()


def from_pdf(data: bytes) -> tuple[str, str, list[int]]:
    """No title, the text of the pages, and the numbers of the pages that hold none.

    Raises:
        Refused: a password is needed, the file is damaged, or no page has a text layer.
        PragError: pypdf is not installed.
    """
    try:
        import pypdf
        from pypdf.errors import DependencyError
    except ImportError as error:
        raise missing("PDF", "pypdf") from error

    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        # Many files are encrypted with an empty password, which readers try unasked.
        locked = reader.is_encrypted and not reader.decrypt("")
        pages = [] if locked else [_page_text(page) for page in reader.pages]
    except DependencyError as error:
        raise Refused(f"encrypted ({error}); save it without encryption") from error
    except Exception as error:  # pypdf raises whatever the damage makes it trip over
        raise Refused(
            f"a damaged PDF ({type(error).__name__}: {error}); open it and save it anew"
        ) from error
    if locked:
        raise Refused("encrypted; save it without a password")
    blank = [number for number, page in enumerate(pages, 1) if not page.strip()]
    if len(blank) == len(pages):
        raise Refused(f"no text layer on its {len(pages)} pages (a scan?); run OCR over it first")
    return "", "\n".join(pages), blank


def _page_text(page: Any) -> str:
    # A font's table may give the halves of a surrogate pair one by one, or a half alone.
    text: str = page.extract_text()
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def missing(kind: str, library: str) -> PragError:
    """The error for a kind of file whose library is not installed."""
    return PragError(f"reading {kind} needs {library}: pip install 'prag[formats]'")
