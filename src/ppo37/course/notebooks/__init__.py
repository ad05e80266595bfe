"""The notebooks of the course, files of marimo; `ppo37 learn --notebook NAME` opens one."""
