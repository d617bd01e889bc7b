"""Pages over the manager's services: server-rendered, usable without scripts, live with one."""
