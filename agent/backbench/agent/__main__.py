"""The command on the device: `backbench-agent serve`, and what asks the agent that serves there."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from backbench.agent import __version__
from backbench.agent.logs import FORMATS, configure
from backbench.agent.settings import DEFAULT_PORT, Settings, uses_tls
from backbench.domain.device import Limits
from backbench.domain.errors import BackbenchError, InvalidArgument
from backbench.domain.quantity import parse_quantity


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"backbench-agent: error: {message}; see backbench-agent --help\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the agent's command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.perform(options)
    except BackbenchError as error:
        sys.stderr.write(f"backbench-agent: error: {error}\n")
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="backbench-agent", description="Executes models on this device and reports what they cost.")
    parser.add_argument("--version", action="version", version=f"backbench-agent {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_serve(commands)
    _add_sensors(commands)
    _add_local(commands)
    return parser


def _add_serve(commands: argparse._SubParsersAction[_Parser]) -> None:
    serve = _command(commands, "serve", "serve controllers until stopped", _serve)
    serve.add_argument(
        "--listen", default=f"127.0.0.1:{DEFAULT_PORT}", metavar="HOST:PORT", help="default: %(default)s"
    )
    serve.add_argument("--tls", action="store_true", help="TLS on loopback too; beyond it there always is")
    serve.add_argument(
        "--insecure-plaintext",
        action="store_true",
        help="allow addresses beyond loopback without TLS: anyone on the network can then run models here",
    )
    serve.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    serve.add_argument("--log-format", choices=FORMATS, default="text", help="default: %(default)s")
    serve.add_argument(
        "--artifact-quota",
        metavar="SIZE",
        help="room for artifacts, for example 20GB; default: half of the disk, at most 16 GiB",
    )
    serve.add_argument(
        "--journal-quota",
        metavar="SIZE",
        help="room for the results of runs until they are collected, for example 2GB; default: 4 GiB",
    )
    serve.add_argument("--metrics-listen", metavar="HOST:PORT", help="serve metrics for Prometheus there; default: not")
    serve.add_argument(
        "--insecure-metrics",
        action="store_true",
        help="allow --metrics-listen beyond loopback: anyone on the network can then read the metrics",
    )
    serve.add_argument(
        "--allow-set-clocks",
        action="store_true",
        help="let runs that ask for it pin this device's clocks while they measure; afterwards what was is put back",
    )
    serve.add_argument(
        "--simulate",
        metavar="NAME|FILE",
        help="replay a recorded board's telemetry and identity; results are marked as simulated, frames are real",
    )


def _add_sensors(commands: argparse._SubParsersAction[_Parser]) -> None:
    sensors = commands.add_parser("sensors", help="show everything that can be read of this device, and what cannot")
    sensors.add_argument("--json", action="store_true", help="one JSON document instead of text")
    sensors.add_argument(
        "--sensor",
        action="append",
        default=[],
        metavar="NAME",
        help="read this source too, whose reading costs something: pmic, tegrastats, jtop; can be given several times",
    )
    sensors.add_argument("--simulate", default="", metavar="NAME", help="a recorded board instead of this device")
    sensors.set_defaults(perform=_sensors)
    record = commands.add_parser(
        "record-bundle",
        help="record what this device shows, so that --simulate can replay it",
        description="Prints a bundle: what the files and commands of this device say that telemetry is read from, once,"
        " without serial numbers, addresses and host names. backbench-agent serve --simulate FILE replays it.",
        epilog="To contribute a board: backbench-agent record-bundle --label 'Orin NX 16GB, idle' > board.bundle; read"
        " it through; name it family-board-release.bundle and open a pull request that puts it beside the others in"
        " agent/backbench/agent/sensors/bundles/.",
    )
    record.add_argument("--label", default="", metavar="TEXT", help="which board it is and in what state, for its head")
    record.set_defaults(perform=_record_bundle)


def _add_local(commands: argparse._SubParsersAction[_Parser]) -> None:
    status = _command(commands, "status", "say how the agent that serves here is", _status)
    status.add_argument("--json", action="store_true", help="one JSON document instead of text")
    pair = _command(commands, "pair", "print a one-time code for backbench pair", _pair)
    pair.add_argument("--minutes", type=int, default=10, metavar="N", help="how long it is good for; default: 10")
    pair.add_argument("--json", action="store_true", help="one JSON document instead of text")
    fleets = _command(commands, "fleets", "list the fleets that this agent belongs to, or leave one", _fleets)
    fleets.add_argument("--json", action="store_true", help="one JSON document instead of text")
    below = fleets.add_subparsers(dest="action", metavar="ACTION")
    remove = below.add_parser("remove", help="leave a fleet: its certificates open nothing here any more")
    remove.add_argument("fleet_id", metavar="ID", help="the fleet's id, or the beginning of it")
    # Given before or after the word, and the default comes from before it.
    remove.add_argument("--data-dir", type=Path, default=argparse.SUPPRESS, metavar="DIR", help="the agent's folder")
    remove.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="one JSON document")


def _command(
    commands: argparse._SubParsersAction[_Parser], name: str, text: str, perform: Callable[[argparse.Namespace], int]
) -> _Parser:
    command = commands.add_parser(name, help=text)
    command.add_argument(
        "--data-dir",
        type=Path,
        default=_default_data_dir(),
        metavar="DIR",
        help="the agent's folder; default: %(default)s",
    )
    command.set_defaults(perform=perform)
    return command


def _serve(options: argparse.Namespace) -> int:
    configure(options.log_level, options.log_format)
    os.umask(0o077)
    from backbench.agent.sensors.simulations import resolve_simulation

    settings = Settings(
        options.listen,
        options.data_dir,
        tls=options.tls,
        insecure_plaintext=options.insecure_plaintext,
        limits=_limits(options),
        metrics_listen=options.metrics_listen,
        insecure_metrics=options.insecure_metrics,
        allow_set_clocks=options.allow_set_clocks,
        simulate="" if options.simulate is None else resolve_simulation(options.simulate),
    )
    # gRPC tells nobody of a failed handshake except in its own log, a line each.
    os.environ.setdefault("GRPC_VERBOSITY", "INFO" if uses_tls(settings) else "NONE")
    # The keys are of P-256, so TLS 1.2 has no cipher in common with the one that is left of it here, and 1.3 is what
    # remains: gRPC has no setting for that. It is read when gRPC starts.
    os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-RSA-AES256-GCM-SHA384"
    from backbench.agent.server import serve

    asyncio.run(serve(settings))
    return 0


def _limits(options: argparse.Namespace) -> Limits:
    limits = Limits(artifact_store_bytes=_quota("--artifact-quota", options.artifact_quota))
    journal_bytes = _quota("--journal-quota", options.journal_quota)
    return limits if journal_bytes is None else replace(limits, journal_bytes=journal_bytes)


def _quota(flag: str, text: str | None) -> int | None:
    if text is None:
        return None
    quota_bytes = int(parse_quantity(flag, text, "memory") * 10**6)
    if quota_bytes < 1:
        raise InvalidArgument(f'{flag} "{text}" is no room at all; give for example 20GB')
    return quota_bytes


def _status(options: argparse.Namespace) -> int:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from backbench.agent.local import LocalAgent
    from backbench.agent.status import status_document, status_text

    with LocalAgent(options.data_dir) as agent:
        document = status_document(agent.status(), agent.security())
    _print(options, document, status_text(document))
    return 0


def _sensors(options: argparse.Namespace) -> int:
    from backbench.agent.sampling.report import sensors_document, sensors_text
    from backbench.agent.sampling.survey import look
    from backbench.agent.sensors.simulations import resolve_simulation, simulation_name
    from backbench.agent.sensors.table import EXTRA_SOURCES
    from backbench.agent.sensors.trees import open_tree

    for name in options.sensor:
        if name not in EXTRA_SOURCES:
            raise InvalidArgument(f'--sensor "{name}" is none of {", ".join(EXTRA_SOURCES)}')
    simulation = resolve_simulation(options.simulate) if options.simulate else ""
    tree = open_tree(simulation, time.perf_counter_ns())
    try:
        found = look(tree, extra=tuple(EXTRA_SOURCES), read=options.sensor)
    finally:
        tree.close()
    document = sensors_document(found, simulation_name(simulation))
    _print(options, document, sensors_text(document))
    return 0


def _record_bundle(options: argparse.Namespace) -> int:
    from backbench.agent.sensors.bundle import parse, render
    from backbench.agent.sensors.recorder import record
    from backbench.agent.sensors.trees import LiveTree

    tree = LiveTree()
    sys.stderr.write("reading this device, which takes up to half a minute\n")
    try:
        recorded = record(tree, f"backbench-agent {__version__}", options.label)
    finally:
        tree.close()
    text = render(recorded.bundle)
    parse(text)
    sys.stdout.write(text)
    for note in recorded.notes:
        sys.stderr.write(f"{note}\n")
    count = len(recorded.bundle.files)
    sys.stderr.write(f"{count} files and commands recorded; read through the bundle before you give it away\n")
    return 0


def _pair(options: argparse.Namespace) -> int:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from backbench.agent.local import LocalAgent

    with LocalAgent(options.data_dir) as agent:
        code, expires_unix_ns = agent.open_pairing(options.minutes * 60)
    expires = datetime.datetime.fromtimestamp(expires_unix_ns // 10**9, datetime.timezone.utc).isoformat()
    _print(options, {"code": code, "expires": expires}, f"{code}  good once, for {options.minutes} minutes")
    return 0


def _fleets(options: argparse.Namespace) -> int:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from backbench.agent.local import LocalAgent

    with LocalAgent(options.data_dir) as agent:
        if options.action == "remove":
            removed = agent.remove_fleet(options.fleet_id)
            _print(options, {"removed": removed}, f"left fleet {removed}")
            return 0
        security = agent.security()
    rows: list[dict[str, object]] = []
    for fleet in security.fleets:
        end = datetime.datetime.fromtimestamp(fleet.not_after_unix_s, datetime.timezone.utc)
        rows.append(
            {"fleet_id": fleet.fleet_id, "not_after": end.isoformat(), "revocation_number": fleet.revocation_number}
        )
    lines = [f"{row['fleet_id']}  certificate until {row['not_after']}" for row in rows]
    text = "\n".join(lines) or "this agent belongs to no fleet; backbench-agent pair prints a code to join one with"
    _print(options, {"device_id": security.device_id, "fleets": rows}, text)
    return 0


def _print(options: argparse.Namespace, document: dict[str, object], text: str) -> None:
    sys.stdout.write((json.dumps(document) if options.json else text) + "\n")


def _default_data_dir() -> Path:
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "backbench-agent"


if __name__ == "__main__":
    sys.exit(main())
