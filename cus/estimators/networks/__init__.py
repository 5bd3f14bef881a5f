"""Networks that this project implements itself, because the packages of their authors cannot be installed beside it."""
