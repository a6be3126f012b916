"""Stream sockets, UNIX and TCP: control, data and the simulator's protocol."""
