"""The tables of the store's SQLite file."""

from __future__ import annotations

from sqlalchemy import BigInteger, Index, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Metadata of the store."""


class DeviceRow(Base):
    """One named device."""

    __tablename__ = "device"

    name: Mapped[str] = mapped_column(String, primary_key=True)
    address: Mapped[str]
    added_unix_ns: Mapped[int] = mapped_column(BigInteger)
    device: Mapped[bytes | None]
    device_id: Mapped[str]
    certificate_not_after_unix_s: Mapped[int] = mapped_column(BigInteger)
    revocation_number: Mapped[int] = mapped_column(BigInteger)


class RunRow(Base):
    """One run. `spec` and `device` are messages of the wire contract, the other texts of many words JSON."""

    __tablename__ = "run"
    __table_args__ = (Index("run_by_time", "created_unix_ns"), Index("run_by_device", "device_name"))

    run_id: Mapped[str] = mapped_column(String, primary_key=True)
    device_name: Mapped[str]
    device: Mapped[bytes | None]
    spec: Mapped[bytes]
    state: Mapped[str]
    budgets: Mapped[str]
    created_unix_ns: Mapped[int] = mapped_column(BigInteger)
    finished_unix_ns: Mapped[int | None] = mapped_column(BigInteger)
    document: Mapped[str | None]
    model_facts: Mapped[str | None]
    group: Mapped[str]


class NoiseRow(Base):
    """The newest noise measurement of one named device; `document` is JSON."""

    __tablename__ = "noise"

    device_name: Mapped[str] = mapped_column(String, primary_key=True)
    measured_unix_ns: Mapped[int] = mapped_column(BigInteger)
    document: Mapped[str]


class RooflineRow(Base):
    """The peak rates of one named device."""

    __tablename__ = "roofline"

    device_name: Mapped[str] = mapped_column(String, primary_key=True)
    peak_flops_per_s: Mapped[float]
    peak_bytes_per_s: Mapped[float]
    measured_unix_ns: Mapped[int] = mapped_column(BigInteger)
    backend: Mapped[str]
    precision: Mapped[str]
    threads: Mapped[int | None]
