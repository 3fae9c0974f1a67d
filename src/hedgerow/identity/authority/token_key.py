"""An EC key inside of a PKCS#11 token, as ``cryptography`` takes one: certificates and lists are signed in the token.

``cryptography``'s builders ask a key for its public part and to sign bytes; nothing else of the private key is ever
needed, so nothing else is offered. Each signature opens a session of its own and logs in: a CA signs seldom, and a
token that was pulled out and put back in works again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NoReturn

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hedgerow import tokens
from hedgerow.errors import MachineError, UsageError


class TokenKey(ec.EllipticCurvePrivateKey):
    """The P-256 key that ``uri`` (``hsm:ID?label=TOKEN``) names; ``pin`` is asked for when it is first needed.

    Raises:
        MachineError: the token's library is missing.
        UsageError: the token is not plugged in, has no such key, or refuses the PIN.
    """

    def __init__(self, uri: str, pin: Callable[[], str], *, module: str | None) -> None:
        self._uri = uri
        self._pin = pin
        self._module = module
        self._public = self._read_public()

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._public

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._public.curve

    @property
    def key_size(self) -> int:
        return self._public.key_size

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """ECDSA with SHA-256, in DER."""
        if not isinstance(signature_algorithm.algorithm, hashes.SHA256):
            raise TypeError("a CA of this project signs with SHA-256 alone")
        import pkcs11
        from pkcs11.util.ec import encode_ecdsa_signature

        def use(session: Any) -> bytes:
            found = session.get_key(pkcs11.ObjectClass.PRIVATE_KEY, pkcs11.KeyType.EC, id=self._identifier())
            # The digest is made here: CKM_ECDSA is what every token has, CKM_ECDSA_SHA256 is not.
            raw = found.sign(hashlib.sha256(data).digest(), mechanism=pkcs11.Mechanism.ECDSA)
            return bytes(encode_ecdsa_signature(raw))

        return self._within(use, log_in=True)

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> NoReturn:  # noqa: ARG002 - the interface's
        raise TypeError("a CA's key signs and does nothing else")

    def private_numbers(self) -> NoReturn:
        raise TypeError("the key is in a token and stays there")

    def private_bytes(
        self,
        encoding: serialization.Encoding,  # noqa: ARG002 - the interface's
        format: serialization.PrivateFormat,  # noqa: A002, ARG002 - same
        encryption_algorithm: serialization.KeySerializationEncryption,  # noqa: ARG002 - same
    ) -> NoReturn:
        raise TypeError("the key is in a token and stays there")

    def __copy__(self) -> TokenKey:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> TokenKey:
        return self

    def _read_public(self) -> ec.EllipticCurvePublicKey:
        import pkcs11
        from pkcs11.util.ec import encode_ec_public_key

        def use(session: Any) -> bytes:
            found = session.get_key(pkcs11.ObjectClass.PUBLIC_KEY, pkcs11.KeyType.EC, id=self._identifier())
            return bytes(encode_ec_public_key(found))

        try:
            encoded = self._within(use, log_in=False)
        except UsageError:
            # Some tokens show public keys only after the PIN.
            encoded = self._within(use, log_in=True)
        key = serialization.load_der_public_key(encoded)
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise UsageError(
                "the token's key is not on the curve P-256",
                where=self._uri,
                next_step="make one on it: pkcs11-tool --keypairgen --key-type EC:prime256v1",
            )
        return key

    def _within(self, use: Callable[[Any], bytes], *, log_in: bool) -> bytes:
        module = tokens.name_module(self._module)
        if module is None:
            raise MachineError(
                "the token's PKCS#11 library is not here",
                where=self._module or f"neither --pkcs11-module nor {tokens.VARIABLE} names one",
                next_step="install it (for SoftHSM2: apt-get install softhsm2), and name it: --pkcs11-module",
            )
        import pkcs11

        try:
            token = pkcs11.lib(str(module)).get_token(
                token_label=tokens.label(self._uri), token_flags=pkcs11.TokenFlag.TOKEN_INITIALIZED
            )
            with token.open(user_pin=self._pin()) if log_in else token.open() as session:
                return use(session)
        except pkcs11.PKCS11Error as error:
            raise UsageError(
                f"the token refuses: {type(error).__name__} {error}".rstrip(),
                where=self._uri,
                next_step="check that it is plugged in, its label and number, and its PIN "
                "(tokens lock themselves after some wrong ones)",
            ) from error

    def _identifier(self) -> bytes:
        from pkcs11.util import biginteger

        try:
            return bytes(biginteger(tokens.number(self._uri)))
        except ValueError as error:
            raise UsageError(
                "a token's key is named hsm:NUMBER?label=TOKEN", where=self._uri, next_step="hsm:2?label=root"
            ) from error
