"""The agent's services as Python calls: domain objects in and out, domain errors, no messages."""

from backbench.controller.client.agent import AgentClient
from backbench.controller.client.channel import Security, Tls

__all__ = ["AgentClient", "Security", "Tls"]
