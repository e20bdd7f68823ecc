"""What an artifact store's driver raised: may it pass, and how is it told without a secret?"""

from __future__ import annotations

import errno
import os
import re

_BUSY = {errno.EIO, errno.EBUSY, errno.EAGAIN, getattr(errno, "EREMOTEIO", errno.EIO), errno.ESTALE}
_NETWORK = {  # by name: a driver's libraries are not imported for it
    "botocore.exceptions.ConnectionError",
    "botocore.exceptions.HTTPClientError",
    "aiohttp.client_exceptions.ClientConnectionError",
    "aiohttp.client_exceptions.ClientPayloadError",
    "requests.exceptions.ConnectionError",
    "requests.exceptions.Timeout",
    "urllib3.exceptions.HTTPError",
}
_SECRET_NAMES = re.compile(r"SECRET|TOKEN|PASSWORD|CREDENTIAL|ACCESS_KEY|_KEY$")
_USER_INFO = re.compile(r"//[^/@\s\"']+@")


def may_pass(error: BaseException | None) -> bool:
    """Whether the store is away for now: refused, cut off, slow, busy. A full disk is not."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and error.errno in _BUSY:
        return True
    return any(f"{kind.__module__}.{kind.__qualname__}" in _NETWORK for kind in type(error).__mro__)


def sentence(error: BaseException | None) -> str:
    """First line of an error's message, without what the environment keeps secret."""
    lines = str(error).strip().splitlines()
    text = lines[0][:500] if lines else type(error).__name__
    text = _USER_INFO.sub("//***@", text)
    for name, value in os.environ.items():
        if len(value) >= 6 and _SECRET_NAMES.search(name.upper()):
            text = text.replace(value, "***")
    return text
