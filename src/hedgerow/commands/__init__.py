"""One module a command group: options in, a call, a table or JSON out. No logic lives here."""
