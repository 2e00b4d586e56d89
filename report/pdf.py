"""A page as PDF, printed by an installed Chromium: the page itself says how it prints."""

import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from fedinverse.errors import StageError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
VARIABLE = "FEDINVERSE_CHROMIUM"
_PATIENCE = 120.0  # seconds


def find_browser() -> str | None:
    """Return the browser that ``$FEDINVERSE_CHROMIUM`` names, or the first of ``BROWSERS`` that is installed."""
    return os.environ.get(VARIABLE) or next((path for name in BROWSERS if (path := shutil.which(name))), None)


def print_pdf(page: Path) -> Path:
    """Print ``page`` beside itself; return the PDF.

    Raises:
        StageError: no browser is installed, or it fails.
    """
    browser = find_browser()
    if browser is None:
        raise StageError(
            f"no browser is installed that prints (looked for {', '.join(BROWSERS)}); install Chromium, name one in "
            f"{VARIABLE}, or print {page} from your own"
        )
    pdf = page.with_suffix(".pdf")
    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # Chromium's sandbox refuses root
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={profile}", *root]
        command = [browser, *options, "--no-pdf-header-footer", f"--print-to-pdf={pdf}", page.resolve().as_uri()]
        try:
            done = subprocess.run(
                command, capture_output=True, encoding="utf-8", errors="replace", timeout=_PATIENCE, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise StageError(f"{browser} did not print {page}: {error}") from error
    if done.returncode or not pdf.exists():
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise StageError(f"{browser} did not print {page}: {last}")
    return pdf
