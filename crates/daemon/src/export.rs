//! `bowline export`: add, list, remove.

use std::time::Duration;

use bowline_api::{ApiError, ErrorKind, EventKind, Export, ExportAdd, ExportKind, ListenAddr};
use bowline_export_nbd::{ListenAddr as NbdAddr, NbdServer, ServerConfig, TlsConfig, check_exposure};

use crate::catalog::Catalog;
use crate::daemon::Daemon;
use crate::error::failed;
use crate::tables::{ExportEntry, Listener, Tables};

/// Stops listeners that are out of the tables; this can take as long as the drain.
pub(crate) fn stop_all(listeners: Vec<NbdServer>) {
    for server in listeners {
        server.stop(DRAIN);
    }
}

/// How long a listener that is taken away lets requests end.
pub(crate) const DRAIN: Duration = Duration::from_secs(5);

impl Daemon {
    pub(crate) fn export_add(&self, request: ExportAdd) -> Result<Export, ApiError> {
        let _turn = self.change();
        let export = self.add_export(request)?;
        self.save(format_args!("device {} is exported", export.device))?;
        Ok(export)
    }

    /// Makes the device reachable; the caller has the turn.
    pub(crate) fn add_export(&self, request: ExportAdd) -> Result<Export, ApiError> {
        self.read().device(&request.device)?;
        let listener = self.listener_at(request.address.as_ref())?;
        let mut tables = self.write();
        let same = |export: &ExportEntry| export.device == request.device && export.listener == listener;
        if let Some(export) = tables.exports.iter().find(|export| same(export)) {
            let what = format!("export device {}", request.device);
            let why = format!("it is exported there already, as export {}", export.id);
            return Err(ApiError::new(
                ErrorKind::AlreadyExists,
                what,
                why,
                "use that one, or remove it first",
            ));
        }
        let id = tables.new_id();
        let ExportAdd { device, address, read_only, .. } = request;
        if let Some(listener) = tables.listeners.iter_mut().find(|one| one.id == listener) {
            listener.hidden.remove(&device);
        }
        tables.exports.push(ExportEntry { id, device: device.clone(), listener, read_only, address });
        let export = tables.exports.last().and_then(|entry| self.describe_export(&tables, entry));
        drop(tables);
        let export = export.ok_or_else(|| ApiError::not_found("export", &id.to_string()))?;
        let message = format!("device {device} is exported at {}", export.uri);
        self.events.draft(EventKind::ExportAdded, message).device(device).post();
        Ok(export)
    }

    /// The listener at the address, started if there is none; `None` is the daemon's own.
    pub(crate) fn listener_at(&self, address: Option<&ListenAddr>) -> Result<u64, ApiError> {
        let address = address.unwrap_or(&self.nbd.address);
        let mut tables = self.write();
        if let Some(listener) = tables.listeners.iter().find(|listener| listener.address == *address) {
            return Ok(listener.id);
        }
        let id = tables.new_id();
        drop(tables);
        let what = format!("listen on {address}");
        let at = match address {
            ListenAddr::Unix(path) => NbdAddr::Unix(path.clone()),
            ListenAddr::Tcp { host, port } => NbdAddr::Tcp { host: host.clone(), port: *port },
        };
        // Beyond this machine TLS is a must; within it, it is there for who asks.
        let tls_required = self.nbd.tls.is_some() && !self.nbd.insecure && !at.is_local();
        check_exposure(&at, tls_required, self.nbd.insecure).map_err(|error| failed(&what, &error))?;
        let tls = self.nbd.tls.clone().map(TlsConfig);
        let config = ServerConfig { tls, tls_required, ..ServerConfig::new(at) };
        let catalog = Catalog { tables: self.tables.clone(), listener: id };
        // Known before it accepts, so that its first client is served all there is and nothing that is hidden.
        let mut tables = self.write();
        let hidden = tables.take_hidden((*address != self.nbd.address).then_some(address));
        tables.listeners.push(Listener { id, address: address.clone(), server: None, hidden });
        drop(tables);
        let started = NbdServer::start(config, std::sync::Arc::new(catalog), self.queues.handles());
        let mut tables = self.write();
        match (started, tables.listeners.iter_mut().find(|listener| listener.id == id)) {
            (Ok(server), Some(listener)) => listener.server = Some(server),
            (Ok(_), None) => return Err(ApiError::not_found("listener", &address.to_string())),
            (Err(error), _) => {
                tables.listeners.retain(|listener| listener.id != id);
                return Err(failed(&what, &error));
            }
        }
        Ok(id)
    }

    fn describe_export(&self, tables: &Tables, entry: &ExportEntry) -> Option<Export> {
        let listener = tables.listener(entry.listener)?;
        let server = listener.server.as_ref()?;
        let read_only = tables.devices.get(&entry.device).is_some_and(|device| device.read_only);
        Some(Export {
            id: entry.id.to_string(),
            device: entry.device.clone(),
            kind: ExportKind::Nbd,
            uri: server.uri(&entry.device).to_string(),
            read_only: entry.read_only || read_only,
            clients: server
                .connections()
                .get(&entry.device)
                .map_or(0, |&clients| u32::try_from(clients).unwrap_or(u32::MAX)),
        })
    }

    /// The exports of one device, or all.
    pub(crate) fn describe_exports(&self, tables: &Tables, device: Option<&str>) -> Vec<Export> {
        tables
            .exports
            .iter()
            .filter(|export| device.is_none_or(|device| export.device == device))
            .filter_map(|export| self.describe_export(tables, export))
            .collect()
    }

    pub(crate) fn export_list(&self) -> Vec<Export> {
        self.describe_exports(&self.read(), None)
    }

    pub(crate) fn export_remove(&self, id: &str) -> Result<(), ApiError> {
        let _turn = self.change();
        let mut tables = self.write();
        let Some(at) = tables.exports.iter().position(|export| export.id.to_string() == id) else {
            return Err(ApiError::not_found("export", id));
        };
        let ExportEntry { device, listener, .. } = tables.exports.remove(at);
        let ended = self.end_unused_listeners(&mut tables);
        // A listener that stays serves everything by name, except what was taken off it.
        if let Some(listener) = tables.listeners.iter_mut().find(|one| one.id == listener) {
            listener.hidden.insert(device.clone());
            if let Some(server) = &listener.server {
                server.disconnect_device(&device);
            }
        }
        drop(tables);
        stop_all(ended);
        self.events
            .draft(EventKind::ExportRemoved, format!("export {id} of device {device} was removed"))
            .device(device)
            .post();
        self.save(format_args!("export {id} is removed"))
    }

    /// Takes a device or image out of the tables, with its exports and the listeners that were there for these only. The
    /// caller stops those, once it lets go of the tables.
    #[must_use]
    pub(crate) fn forget_device(&self, tables: &mut Tables, name: &str) -> Vec<NbdServer> {
        tables.devices.remove(name);
        tables.exports.retain(|export| export.device != name);
        for listener in &mut tables.listeners {
            listener.hidden.remove(name);
        }
        self.end_unused_listeners(tables)
    }

    /// A listener that was started for its exports goes with the last of them; the daemon's own stays.
    fn end_unused_listeners(&self, tables: &mut Tables) -> Vec<NbdServer> {
        let Tables { listeners, exports, .. } = tables;
        let used = |listener: &Listener| {
            listener.address == self.nbd.address
                || exports.iter().any(|export| export.listener == listener.id)
        };
        listeners.extract_if(.., |listener| !used(listener)).filter_map(|listener| listener.server).collect()
    }

    /// Closes all connections to a device, on every listener.
    pub(crate) fn disconnect(&self, device: &str) {
        for server in self.read().listeners.iter().filter_map(|listener| listener.server.as_ref()) {
            server.disconnect_device(device);
        }
    }
}
