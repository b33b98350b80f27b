"""Who may call this agent: its fleets, pairing codes, roles and limits of use."""
