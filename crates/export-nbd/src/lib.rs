//! The NBD server: devices by export name over Unix sockets and TCP.
