"""Workers and clients over TLS, with certificates on both sides."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import redis
import redis.asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from durasleep import StoreUnavailable
from durasleep.sync import Client as SyncClient
from durasleep.transport.connection import Link, SyncLink
from durasleep.transport.connector import Connector
from harness import cluster as clusters
from harness.servers import MakeServer, Server, free_port
from tests.service.fixtures import NewApp
from tests.service.functions import sleeping_workflow
from tests.service.workers import serving


class Authority:
    """Signs certificates for a day."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = directory / f"{name}.crt"
        signed = self._sign(self._name, self._key.public_key(), is_authority=True)
        self.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str) -> tuple[Path, Path]:
        """A certificate for localhost and its key, as files."""
        key = ec.generate_private_key(ec.SECP256R1())
        signed = self._sign(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key.public_key())
        certificate_path, key_path = self._directory / f"{name}.crt", self._directory / f"{name}.key"
        certificate_path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate_path, key_path

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, is_authority: bool = False
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=True,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    key_cert_sign=is_authority,
                    crl_sign=is_authority,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )  # without these, Python 3.13 accepts none of them
            .sign(self._key, hashes.SHA256())
        )


async def test_a_service_runs_over_tls_and_only_with_the_right_certificate(
    new_app: NewApp, make_server: MakeServer, real_server: Server, tmp_path: Path, namespace: str
) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    server_certificate, server_key = ours.issue("server")
    port = free_port()
    make_server(
        "redis7",  # the others come without TLS
        extra_args=(
            *("--tls-port", f"{port}"),
            *("--tls-cert-file", f"{server_certificate}", "--tls-key-file", f"{server_key}"),
            *("--tls-ca-cert-file", f"{ours.certificate}", "--tls-auth-clients", "yes"),
        ),
    )

    def url(certificate: Path, key: Path, trusted: Authority = ours) -> str:
        options = {"ssl_ca_certs": trusted.certificate, "ssl_certfile": certificate, "ssl_keyfile": key}
        return f"rediss://localhost:{port}?{urlencode(options)}"

    app = new_app(url(*ours.issue("client")))
    async with serving(app):
        assert await (await app.rpc("a", sleeping_workflow, 0.05)) == "Slept for 0.05 seconds"

        def call() -> object:
            with SyncClient(url(*ours.issue("sync")), namespace=namespace) as client:
                return client.rpc("b", "sleeping_workflow", 0.05).result()

        assert await asyncio.to_thread(call) == "Slept for 0.05 seconds"
    with pytest.raises(StoreUnavailable, match=r"(?i)cannot be reached|certificate|unknown ca|reset"):
        await new_app(url(*theirs.issue("stranger"))).rpc("c", sleeping_workflow, 1)
    with pytest.raises(StoreUnavailable, match="certificate verify failed"):
        await new_app(url(*ours.issue("client"), theirs)).rpc("d", sleeping_workflow, 1)


async def test_the_nodes_of_a_cluster_are_reached_over_tls(make_server: MakeServer, tmp_path: Path) -> None:
    authority, port = Authority(tmp_path, "ours"), clusters.free_port()
    certificate, key = authority.issue("node")
    node = make_server(
        "redis7",
        persist=False,
        port=clusters.free_port(),
        extra_args=(
            *("--cluster-enabled", "yes", "--cluster-preferred-endpoint-type", "hostname"),
            *("--cluster-announce-hostname", "localhost", "--tls-cluster", "yes", "--tls-port", f"{port}"),
            *("--tls-cert-file", f"{certificate}", "--tls-key-file", f"{key}"),
            *("--tls-ca-cert-file", f"{authority.certificate}", "--tls-auth-clients", "yes"),
        ),
    )
    with redis.Redis(port=node.port) as admin:
        admin.execute_command("CLUSTER", "ADDSLOTS", 1)
    certificate, key = authority.issue("client")
    options = {"ssl_ca_certs": authority.certificate, "ssl_certfile": certificate, "ssl_keyfile": key}
    # redis-py makes an IP address of this host name, which no certificate has.
    given: dict[str, Any] = {name: str(path) for name, path in options.items()}
    client = redis.asyncio.RedisCluster("localhost", port, ssl=True, ssl_check_hostname=False, **given)
    for source in (f"rediss+cluster://localhost:{port}?{urlencode(options)}", client):
        connector = Connector.of(source)
        link, sync_link = Link(connector, "test", 5.0, 1), SyncLink(connector, "test", 5.0, 1)
        assert await link.exchange([[b"PING"]]) == sync_link.exchange([[b"PING"]]) == [b"PONG"]
        assert connector.topology is not None
        assert connector.topology.masters == (("localhost", port),)
        await link.close()
        sync_link.close()
    stranger = Link(Connector.of(f"rediss+cluster://localhost:{port}"), "test", 5.0, 1)
    with pytest.raises(StoreUnavailable, match="certificate verify failed"):
        await stranger.exchange([[b"PING"]])
