"""Lists of keys as firmware takes them: EFI signature lists, and the signed form of a variable.

UEFI Specification 2.10: EFI_SIGNATURE_LIST and EFI_SIGNATURE_DATA in 32.4.1, authenticated
variables (EFI_VARIABLE_AUTHENTICATION_2) in 8.2.2.
"""

from __future__ import annotations

import datetime as dt
import struct
import uuid

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import pkcs7

_X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
_PKCS7 = uuid.UUID("4aafd29d-68df-49ee-8aa9-347d375665a7")
_GLOBAL = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
_SECURITY = uuid.UUID("d719b2cb-3d3d-4596-a3bc-dad00e67656f")

# Non-volatile, at boot, at run time, authenticated by time.
ATTRIBUTES = 0x27
_REVISION = 0x0200
_CERTIFICATE_GUID = 0x0EF1


def signature_list(certificate: x509.Certificate, owner: uuid.UUID) -> bytes:
    """A list with one certificate."""
    der = certificate.public_bytes(serialization.Encoding.DER)
    size = 16 + len(der)
    head = _X509.bytes_le + struct.pack("<III", 28 + size, 0, size)
    return head + owner.bytes_le + der


def signed_list(
    variable: str,
    content: bytes,
    *,
    key: rsa.RSAPrivateKey,
    certificate: x509.Certificate,
    now: dt.datetime,
) -> bytes:
    """What SetVariable takes for PK, KEK or db: time, signature, then the list."""
    time = struct.pack(
        "<HBBBBBBIhBB",
        now.year,
        now.month,
        now.day,
        now.hour,
        now.minute,
        now.second,
        0,
        0,
        0,
        0,
        0,
    )
    place = _SECURITY if variable == "db" else _GLOBAL
    signed = variable.encode("utf-16-le") + place.bytes_le + struct.pack("<I", ATTRIBUTES)
    signature = (
        pkcs7.PKCS7SignatureBuilder()
        .set_data(signed + time + content)
        .add_signer(certificate, key, hashes.SHA256())
        .sign(
            serialization.Encoding.DER,
            [
                pkcs7.PKCS7Options.DetachedSignature,
                pkcs7.PKCS7Options.Binary,
                pkcs7.PKCS7Options.NoAttributes,
            ],
        )
    )
    inner = signed_data(signature)
    head = struct.pack("<IHH", 24 + len(inner), _REVISION, _CERTIFICATE_GUID)
    return time + head + _PKCS7.bytes_le + inner + content


def signed_data(message: bytes) -> bytes:
    """The SignedData inside a ContentInfo (RFC 5652): firmware wants it without the wrapping."""
    _, body = _element(message)
    kind_end = _skip(body)
    _, inner = _element(body[kind_end:])
    return inner


def _element(data: bytes) -> tuple[int, bytes]:
    """Tag and content of the DER element at the start."""
    size, at = data[1], 2
    if size & 0x80:
        count = size & 0x7F
        size, at = int.from_bytes(data[2 : 2 + count]), 2 + count
    return data[0], data[at : at + size]


def _skip(data: bytes) -> int:
    """Length of the DER element at the start, with its head."""
    size, at = data[1], 2
    if size & 0x80:
        count = size & 0x7F
        size, at = int.from_bytes(data[2 : 2 + count]), 2 + count
    return at + size
