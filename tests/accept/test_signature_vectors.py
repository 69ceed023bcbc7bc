"""Are the signatures judged as their publishers say? Known answers of vendors and libraries."""

import json
from pathlib import Path
from typing import Any

from service.accept.signatures import (
    AuthScheme,
    Hmac,
    SignedRequest,
    Token,
    build_checks,
    is_genuine,
)

# Vendors' own material is not ours to ship: these tests read it where it lies beside the checkout.
VECTORS = Path(__file__).parents[3] / "shared" / "samples" / "signature-vectors.json"


def published_vectors() -> list[Any]:
    """Give the published known answers, where there are any beside the checkout."""
    if not VECTORS.is_file():
        return []
    vectors = json.loads(VECTORS.read_text())["vectors"]
    kinds = ("hmac", "token", "standard-webhooks")
    return [v for v in vectors if v["verifier"]["kind"] in kinds and v["id"] != "sw-v1a"]


def scheme_from_vector(verifier: dict[str, Any]) -> AuthScheme:
    """Write a vector's verifier as a scheme of ours."""
    match verifier:
        case {"kind": "token"}:
            return Token(header=verifier["header"])
        case {"kind": "standard-webhooks"}:
            prefix = verifier.get("header_prefix", "webhook")
            return Hmac(
                header=f"{prefix}-signature",
                items=" ",
                sep=",",
                field="v1",
                encoding="base64",
                signed=f"{{{prefix}-id}}.{{{prefix}-timestamp}}.{{body}}",
                timestamp=f"{prefix}-timestamp",
                secret_prefix="whsec_",
                secret_encoding="base64",
            )
        case _:
            stamp = verifier.get("timestamp", {}).get("header")
            return Hmac(
                header=verifier["header"],
                algorithm=verifier["algorithm"],
                encoding=verifier["encoding"],
                field=verifier.get("field"),
                items=verifier.get("item_sep"),
                signed=verifier.get("signed", "{body}").replace("{timestamp}", f"{{{stamp}}}"),
                timestamp=stamp,
            )


def test_every_published_known_answer_is_given() -> None:
    """Vectors of vendors' documentation and tests, over those that are there."""
    wrong = [
        vector["id"]
        for vector in published_vectors()
        if is_genuine(
            build_checks([scheme_from_vector(vector["verifier"])], vector["secrets"]),
            SignedRequest(
                {name.lower(): value for name, value in vector["headers"].items()},
                {},
                vector["body"].encode(),
            ),
            now_s=vector.get("now", 0),
        )
        is not (vector["expected"] == "valid")
    ]
    assert wrong == []
