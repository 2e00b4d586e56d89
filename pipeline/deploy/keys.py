"""Certificates and node keys of a deployment: one authority, one server certificate, one key pair per SuperNode.

TLS is one-sided: nodes verify the SuperLink by ``server.pem``, which ``ca.pem`` signed. The SuperLink verifies nodes by
their EC keys, whose public halves are registered with it. All keys are P-384, the curve Flower's own guide uses.
"""

import datetime
import ipaddress
import os
import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedinverse.errors import ConfigError, IntegrityError
from fedinverse.layout import At
from fedinverse.storage import atomic_write

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Keys:
    """Where the keys of a deployment lie.

    Only ``ca.pem`` goes to every node, ``server.pem`` and ``server.key`` to the SuperLink, ``node-XX.key`` to that node
    alone. ``ca.key`` stays with whoever runs the federation.
    """

    root: Path

    authority = At("ca.pem")
    """The authority's certificate, by which nodes verify the SuperLink."""
    authority_key = At("ca.key")
    """The authority's private key."""
    certificate = At("server.pem")
    """The SuperLink's certificate."""
    certificate_key = At("server.key")
    """The SuperLink's private key."""

    def node(self, number: int) -> Path:
        """The private key of a node, OpenSSH format."""
        return self.root / f"node-{number:02d}.key"

    def node_public(self, number: int) -> Path:
        """The public key of a node, OpenSSH format: what is registered with the SuperLink."""
        return self.root / f"node-{number:02d}.pub"


def make_keys(directory: Path, nodes: int, hosts: Sequence[str] = (), days: int = 365) -> Keys:
    """Make the keys that ``directory`` lacks; those that are there are kept.

    Args:
        directory: made if absent, mode 0700.
        nodes: number of node key pairs.
        hosts: names and addresses under which nodes reach the SuperLink, beside the loopback ones.
        days: how long the certificates are valid.

    Raises:
        ConfigError: the server certificate is there but does not name one of ``hosts``, or others may read a key.
        IntegrityError: a certificate or key that is there cannot be read.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    keys = Keys(directory)
    names = tuple(dict.fromkeys([*LOOPBACK, *hosts]))
    if not keys.certificate.exists():
        _make_certificates(keys, names, days)
    for private in (keys.authority_key, keys.certificate_key, *map(keys.node, range(nodes))):
        if private.exists():
            _check_private(private)
    missing = sorted(set(names) - _names_in(keys.certificate))
    _check_certificates(keys)
    if missing:
        raise ConfigError(
            f"{keys.certificate} does not name the host {missing[0]}; delete ca.* and server.* to have them made anew"
        )
    for number in range(nodes):
        _make_node_key(keys.node(number), keys.node_public(number))
    return keys


def node_secret(key: Path) -> Path:
    """Return the file of a node's own secret, ``KEY.secret`` beside its private key; made if absent, mode 0600.

    With it the node's own ClientApp processes show its SuperNode that they are its own.

    Raises:
        ConfigError: others may read it, or it cannot be made there.
    """
    path = key.with_name(f"{key.name}.secret")
    if not path.exists():
        try:
            _write_private(path, secrets.token_bytes(32))
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be made ({error.strerror}); put 32 random bytes there, for this user alone (mode 0600)"
            ) from error
    _check_private(path)
    return path


def _check_private(path: Path) -> None:
    if path.stat().st_mode & 0o077:
        raise ConfigError(f"{path} may be read by others; take it from them: chmod 600 {path}")


def _make_certificates(keys: Keys, names: Sequence[str], days: int) -> None:
    now = datetime.datetime.now(datetime.UTC)
    authority_key, server_key = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
    issuer, subject = _named("FedInverse deployment authority"), _named(names[-1])

    def builder(of: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(of)
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)  # clocks of hosts differ
            .not_valid_after(now + days * _DAY)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
            )
        )

    authority = (
        builder(issuer, authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(authority_key, hashes.SHA384())
    )
    server = (
        builder(subject, server_key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .sign(authority_key, hashes.SHA384())
    )
    pem = serialization.PrivateFormat.PKCS8
    _write_private(keys.authority_key, _encoded(authority_key, serialization.Encoding.PEM, pem))
    _write_private(keys.certificate_key, _encoded(server_key, serialization.Encoding.PEM, pem))
    atomic_write(keys.authority, authority.public_bytes(serialization.Encoding.PEM))
    atomic_write(keys.certificate, server.public_bytes(serialization.Encoding.PEM))  # last: it says all are there


def _make_node_key(private: Path, public: Path) -> None:
    if private.exists():
        try:
            key = serialization.load_ssh_private_key(private.read_bytes(), None)
        except ValueError as error:
            raise IntegrityError(
                f"{private} is not a readable OpenSSH private key ({error}); delete it to have it made anew"
            ) from error
    else:
        key = ec.generate_private_key(ec.SECP384R1())
        _write_private(private, _encoded(key, serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH))
    encoded = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    atomic_write(public, encoded + b"\n")


def _write_private(path: Path, content: bytes) -> None:
    """Write atomically with mode 0600 from the first byte on (``atomic_write`` makes files that all may read)."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105 - atomic within one directory
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _encoded(
    key: ec.EllipticCurvePrivateKey, encoding: serialization.Encoding, form: serialization.PrivateFormat
) -> bytes:
    return key.private_bytes(encoding, form, serialization.NoEncryption())


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _names_in(certificate: Path) -> set[str]:
    try:
        read = x509.load_pem_x509_certificate(certificate.read_bytes())
        names = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound) as error:
        raise IntegrityError(f"{certificate} is not a readable server certificate ({error}); delete it") from error
    addresses = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    return addresses | set(names.get_values_for_type(x509.DNSName))


def _check_certificates(keys: Keys) -> None:
    """Refuse certificates that nobody would accept.

    Raises:
        IntegrityError: ``ca.pem`` is none, did not sign ``server.pem``, or one of them has run out; ``server.key`` is
            not the key of ``server.pem``.
    """
    remedy = "delete ca.* and server.* to have them made anew"
    try:
        authority = x509.load_pem_x509_certificate(keys.authority.read_bytes())
    except (ValueError, OSError) as error:
        raise IntegrityError(f"{keys.authority} is not a readable certificate ({error}); {remedy}") from error
    server = x509.load_pem_x509_certificate(keys.certificate.read_bytes())
    try:
        server.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise IntegrityError(f"{keys.authority} did not sign {keys.certificate.name}; {remedy}") from error
    for path, certificate in ((keys.authority, authority), (keys.certificate, server)):
        if certificate.not_valid_after_utc <= datetime.datetime.now(datetime.UTC):
            raise IntegrityError(f"{path} was valid until {certificate.not_valid_after_utc:%Y-%m-%d}; {remedy}")
    try:
        key = serialization.load_pem_private_key(keys.certificate_key.read_bytes(), None)
    except (ValueError, TypeError, OSError) as error:
        raise IntegrityError(f"{keys.certificate_key} is not a readable key ({error}); {remedy}") from error
    if key.public_key() != server.public_key():
        raise IntegrityError(f"{keys.certificate_key} is not the key of {keys.certificate.name}; {remedy}")


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
