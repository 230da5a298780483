//! The control API: its types, routes and OpenAPI document.
