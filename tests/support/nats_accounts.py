"""A server's operator, an account and a user of it, and the user's credentials file, as NATS' own tools make them."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import nkeys

UNLIMITED = {"subs": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1, "data": -1, "payload": -1}
STORES = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}


def write_credentials(path: Path) -> str:
    """Write a credentials file.

    Returns:
        Settings of a server that lets its user in, and nobody else.
    """
    operator, user = _pair(nkeys.PREFIX_BYTE_OPERATOR), _pair(nkeys.PREFIX_BYTE_USER)
    account, system = _pair(nkeys.PREFIX_BYTE_ACCOUNT), _pair(nkeys.PREFIX_BYTE_ACCOUNT)
    user_token = _token(account, user, {"type": "user", "subs": -1, "data": -1, "payload": -1})
    path.write_text(
        f"-----BEGIN NATS USER JWT-----\n{user_token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{bytes(user.seed).decode()}\n------END USER NKEY SEED------\n"
    )
    account_token = _token(operator, account, {"type": "account", "limits": {**UNLIMITED, **STORES}})
    system_token = _token(operator, system, {"type": "account", "limits": UNLIMITED})
    return (
        f"operator: {_token(operator, operator, {'type': 'operator'})}\n"
        f"system_account: {system.public_key.decode()}\nresolver: MEMORY\nresolver_preload: {{\n"
        f"{account.public_key.decode()}: {account_token}\n{system.public_key.decode()}: {system_token}\n}}"
    )


def _pair(prefix: int) -> Any:
    return nkeys.from_seed(nkeys.encode_seed(os.urandom(32), prefix))


def _token(issuer: Any, subject: Any, claims: dict[str, Any]) -> str:
    body = {
        "jti": "x", "iat": 1_700_000_000, "iss": issuer.public_key.decode(), "sub": subject.public_key.decode(),
        "name": claims["type"], "nats": {**claims, "version": 2},
    }  # fmt: skip
    text = ".".join(_base64(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, body))
    return f"{text}.{_base64(issuer.sign(text.encode()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
