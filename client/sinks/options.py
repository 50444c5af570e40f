"""`--sink NAME=PLACE` as a sink, with its secret out of the environment.

NAME is `file`, `splunk`, `elasticsearch` or `webhook`; with `-` and a word behind it there may be several of a kind.
The secret of `webhook-pager` is in `WEBHOOK_PAGER_TOKEN`.
"""

import os
import re
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from client.sinks.elasticsearch import Elasticsearch
from client.sinks.lines import LinesFile
from client.sinks.sink import Sink
from client.sinks.splunk import PATH, SplunkHec
from client.sinks.webhook import Webhook
from shared.addresses import is_loopback
from shared.errors import ConfigError

KINDS = ("file", "splunk", "elasticsearch", "webhook")
OUTPUT = "output"  # the sink that is `--output`
_NAME = re.compile(rf"({'|'.join(KINDS)})(-[a-z0-9]{{1,32}})?")


def sinks_of(options: Sequence[str], *, allow_http: bool) -> list[Sink]:
    """The sinks that a command line names.

    Args:
        options: `name=place` each; a webhook's place may be in the environment instead.
        allow_http: take `http://` to other machines, where all alerts and the secret can be read on the way.

    Raises:
        ConfigError: no such form, a name twice, a URL that is not to be used, or a secret that is not set.
    """
    sinks: list[Sink] = []
    for option in options:
        name, _, place = option.partition("=")
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"--sink {name}: expected NAME=PLACE, and as NAME one of {', '.join(KINDS)}, if need be with a word "
                "behind it, as in webhook-pager"
            )
        if name in [sink.name for sink in sinks]:
            raise ConfigError(f"--sink {name}: given twice; give one of them a word behind it, as in {name}-other")
        sinks.append(_sink(name, place, allow_http))
    return sinks


def _sink(name: str, place: str, allow_http: bool) -> Sink:
    kind = name.partition("-")[0]
    prefix = name.upper().replace("-", "_")
    if kind == "file":
        if not place:
            raise ConfigError(f"--sink {name}: names no file; expected {name}=PATH")
        return LinesFile(name, Path(place))
    if kind == "webhook":
        # Many a webhook's URL is its secret.
        url = _checked(name, place or _secret(f"{prefix}_URL", f"the URL of --sink {name}"), allow_http)
        return Webhook(name, url, _secret(f"{prefix}_TOKEN"), f"{prefix}_TOKEN")
    url = _checked(name, place, allow_http)
    if kind == "splunk":
        path = urlsplit(url).path
        url = url.rstrip("/") + PATH if path in ("", "/") else url
        return SplunkHec(name, url, _secret(f"{prefix}_TOKEN", f"the HEC token of --sink {name}"), f"{prefix}_TOKEN")
    if urlsplit(url).path in ("", "/"):
        raise ConfigError(f"--sink {name}: names no index; expected https://host:9200/INDEX")
    return Elasticsearch(name, url, *_elastic_secret(name, prefix))


def _elastic_secret(name: str, prefix: str) -> tuple[str, str]:
    """The header's value, and the variables that it is from."""
    if key := _secret(f"{prefix}_API_KEY"):
        return f"ApiKey {key}", f"{prefix}_API_KEY"
    user, password = _secret(f"{prefix}_USERNAME"), _secret(f"{prefix}_PASSWORD")
    if bool(user) != bool(password):
        raise ConfigError(f"--sink {name}: set both {prefix}_USERNAME and {prefix}_PASSWORD, or {prefix}_API_KEY")
    if not user:
        return "", f"{prefix}_API_KEY, or {prefix}_USERNAME and {prefix}_PASSWORD"
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}", f"{prefix}_USERNAME and {prefix}_PASSWORD"


def _secret(variable: str, needed_for: str = "") -> str:
    """A secret of the environment; no message holds any of it.

    Raises:
        ConfigError: it is needed and not there, or can't be in a header.
    """
    value = os.environ.get(variable, "")
    if needed_for and not value:
        raise ConfigError(
            f"{variable} is not set: it is {needed_for}; put it in the environment, not on the command line"
        )
    if not (value.isascii() and value.isprintable()) or value != value.strip():
        raise ConfigError(f"{variable}: holds a line break, a blank at an end, or a letter that no header takes")
    return value


def _checked(name: str, url: str, allow_http: bool) -> str:
    """A URL that alerts and secrets may go to.

    Raises:
        ConfigError: it is none. The message does not repeat it, as it may hold a secret.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ConfigError(f"--sink {name}: no URL; expected {name}=https://host:port/…") from None
    if parts.scheme not in ("https", "http") or not host or port == 0 or parts.fragment or not url.isascii():
        raise ConfigError(f"--sink {name}: no URL; expected {name}=https://host:port/…")
    if any(letter <= " " for letter in url):
        raise ConfigError(f"--sink {name}: a URL with a blank in it; expected {name}=https://host:port/…")
    if parts.username is not None or parts.password is not None:
        raise ConfigError(
            f"--sink {name}: a URL with a user or a password in it; leave them out, and put secrets in the environment"
        )
    if parts.scheme == "http" and not is_loopback(host) and not allow_http:
        raise ConfigError(
            f"--sink {name}: http:// to {host}, where whoever is on the way reads alerts and secrets; expected "
            "https://; --allow_insecure_sink takes it all the same"
        )
    return url
