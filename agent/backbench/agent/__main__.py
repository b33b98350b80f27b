"""The command on the device: `backbench-agent serve`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

from backbench.agent import __version__
from backbench.domain.errors import BackbenchError, InvalidArgument


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"backbench-agent: error: {message}; see backbench-agent --help\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the agent's command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=options.log_level.upper(), stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s"
    )
    try:
        return _serve(options)
    except BackbenchError as error:
        sys.stderr.write(f"backbench-agent: error: {error}\n")
        return error.exit_status
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="backbench-agent", description="Executes models on this device and reports what they cost.")
    parser.add_argument("--version", action="version", version=f"backbench-agent {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="serve controllers until stopped")
    serve.add_argument("--listen", default="127.0.0.1:50061", metavar="HOST:PORT", help="default: %(default)s")
    serve.add_argument(
        "--data-dir",
        type=Path,
        default=_default_data_dir(),
        metavar="DIR",
        help="artifacts and journals; default: %(default)s",
    )
    serve.add_argument("--tls-certificate", type=Path, metavar="PEM", help="this agent's certificate")
    serve.add_argument("--tls-key", type=Path, metavar="PEM", help="its key")
    serve.add_argument("--tls-client-ca", type=Path, metavar="PEM", help="let in only clients of this authority")
    serve.add_argument(
        "--insecure-plaintext",
        action="store_true",
        help="allow addresses beyond loopback without TLS: anyone on the network can then run models here",
    )
    serve.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    return parser


def _serve(options: argparse.Namespace) -> int:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its C core would print lines of its own beside the one error
    from backbench.agent.server import serve
    from backbench.agent.settings import Settings, TlsFiles

    if (options.tls_certificate is None) != (options.tls_key is None):
        raise InvalidArgument("--tls-certificate and --tls-key go together")
    if options.tls_client_ca is not None and options.tls_certificate is None:
        raise InvalidArgument("--tls-client-ca needs --tls-certificate and --tls-key")
    tls = options.tls_certificate and TlsFiles(options.tls_certificate, options.tls_key, options.tls_client_ca)
    asyncio.run(serve(Settings(options.listen, options.data_dir, tls, options.insecure_plaintext)))
    return 0


def _default_data_dir() -> Path:
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "backbench-agent"


if __name__ == "__main__":
    sys.exit(main())
