"""Pictures of the page for the README, of a service that runs.

    prag serve KB &
    python scripts/page_screenshots.py http://127.0.0.1:8321 docs

The knowledge base holds examples/notes. A note is added, and withdrawn again at the end.
"""

from __future__ import annotations

import base64
import shutil
import sys
import tempfile
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

QUESTION = "Who built Skarholm Lighthouse?"
NOTE = (
    "The code word of the harbour office at Vestby is Quillmarsh. It was chosen by Anselm Torvik "
    "in 1931, and it is changed only when a ship has been lost."
)
NOTE_NAME = "harbour.txt"
PASSAGES = "section[aria-labelledby=passages-title]"
DOCUMENTS = "section[aria-labelledby=documents-title]"
WIDTH = 1200


def main(url: str, out: Path) -> None:
    """The answers in light and on a phone, an added document in dark."""
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        for flag in ("headless", "no-sandbox", "disable-gpu", "hide-scrollbars"):
            options.add_argument(f"--{flag}")
        options.add_argument(f"--user-data-dir={profile}")
        service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
        browser = webdriver.Chrome(options=options, service=service)
        try:
            look(browser, "light", WIDTH, 900)
            browser.get(url)
            ask(browser, QUESTION)
            ask(browser, QUESTION)  # the first one also warmed up the service
            picture(browser, PASSAGES, out / "page-light.png", from_top=True)
            add_note(browser)
            look(browser, "dark", WIDTH, 900)
            picture(browser, DOCUMENTS, out / "page-dark.png")
            withdraw_note(browser)
            look(browser, "light", 360, 780, mobile=True)
            browser.execute_script(
                "document.getElementById('dismiss').click(); document.activeElement.blur();"
                "document.getElementById('ask-title').scrollIntoView()"
            )
            save(browser, out / "page-phone.png")
        finally:
            browser.quit()


def look(browser: webdriver.Chrome, scheme: str, width: int, height: int, mobile: bool = False):
    """The size of the window, and whether the reader prefers light or dark."""
    dense = 2 if mobile else 1
    size = {"width": width, "height": height, "deviceScaleFactor": dense, "mobile": mobile}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


def ask(browser: webdriver.Chrome, question: str) -> None:
    """Asks, and waits for the four answers."""
    field = browser.find_element(By.ID, "question")
    field.clear()
    field.send_keys(question + "\n")
    wait(browser, lambda b: len(b.find_elements(By.CSS_SELECTOR, "[data-state=done]")) == 4)


def add_note(browser: webdriver.Chrome) -> None:
    """Adds the note, and waits until its pairs are there and its adapter is being trained."""
    name = browser.find_element(By.ID, "paste-name")
    name.clear()
    name.send_keys(NOTE_NAME)
    browser.find_element(By.ID, "paste-text").send_keys(NOTE)
    press(browser, "#paste-form button")
    job = "return [...document.querySelectorAll('#jobs > li:has(.pairs)')].map((job) => "
    job += "[job.dataset.state, job.querySelector('.stage').textContent, "
    job += "job.querySelector('progress').value])"
    wait(browser, lambda b: any(training(*shown) for shown in b.execute_script(job)))
    press(browser, "#dismiss")


def training(state: str, stage: str, share: float) -> bool:
    """Whether a picture shows an adapter half trained; or it is too late for one."""
    return state == "done" or ("Training" in stage and share > 0.1)


def withdraw_note(browser: webdriver.Chrome) -> None:
    """Leaves the knowledge base as it was."""
    wait(browser, lambda b: b.find_elements(By.CSS_SELECTOR, "#jobs [data-state=done]"))
    note = f"#documents [data-key='{NOTE_NAME}']"
    press(browser, f"{note} .withdraw")
    press(browser, f"{note} .yes")
    wait(browser, lambda b: len(b.find_elements(By.CSS_SELECTOR, "#jobs [data-state=done]")) == 2)


def press(browser: webdriver.Chrome, selector: str) -> None:
    """Clicks a button, away from the line of messages at the bottom of the window."""
    button = browser.find_element(By.CSS_SELECTOR, selector)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()


def wait(browser: webdriver.Chrome, condition) -> None:
    """Until it holds, at most three minutes."""
    WebDriverWait(browser, 180, 0.1).until(condition)


def picture(browser: webdriver.Chrome, selector: str, path: Path, from_top: bool = False) -> None:
    """A part of the page, or the page from its top to the end of the part."""
    top, bottom = browser.execute_script(
        "document.activeElement.blur();"
        "const box = document.querySelector(arguments[0]).getBoundingClientRect();"
        "return [box.top + scrollY, box.bottom + scrollY]",
        selector,
    )
    top = 0 if from_top else top - 24
    clip = {"x": 0, "y": top, "width": WIDTH, "height": bottom + 24 - top, "scale": 1}
    save(browser, path, clip=clip, captureBeyondViewport=True)


def save(browser: webdriver.Chrome, path: Path, **options) -> None:
    """Writes what the browser shows."""
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", **options})
    path.write_bytes(base64.b64decode(shot["data"]))
    print(path, f"{path.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
