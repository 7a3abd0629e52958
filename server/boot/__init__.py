"""What a node gets: the plan, the boot tree, menus, loaders, what DHCP servers are told."""
