"""Commands of the server: `serve`, `lts`, `dhcp-config`."""
