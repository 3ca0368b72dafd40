//! The services' sockets: bound all at once, before anything is answered.

use std::io;
use std::net::{SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::messaging;
use super::serve::{self, World};
use super::service::{Service, Transport};
use super::web;
use edgepress_base::error::Problem;

/// A service's bound sockets.
pub(super) struct Sockets {
    pub service: Service,
    pub address: SocketAddrV4,
    tcp: Option<TcpListener>,
    udp: Option<UdpSocket>,
}

impl Sockets {
    pub(super) fn bind(service: Service, address: SocketAddrV4) -> Result<Self> {
        let refused = |error: io::Error| refusal(service, address, &error);
        let tcp = match service.transport() != Transport::Ntp {
            true => Some(listen(address).map_err(refused)?),
            false => None,
        };
        let mut bound = match &tcp {
            Some(tcp) => v4(tcp.local_addr().context("reading a bound address")?, address),
            None => address,
        };
        // DNS uses one port for both; with port 0 it is the one that TCP was given.
        let udp = match matches!(service.transport(), Transport::Dns | Transport::Ntp) {
            true => Some(packets(bound).map_err(refused)?),
            false => None,
        };
        if let Some(udp) = &udp {
            bound = v4(udp.local_addr().context("reading a bound address")?, bound);
        }
        Ok(Self { service, address: bound, tcp, udp })
    }

    /// Starts answering; to be called inside the runtime.
    pub(super) fn serve(self, world: &Arc<World>) -> Result<()> {
        let service = self.service;
        if let Some(listener) = self.tcp {
            let listener = tokio::net::TcpListener::from_std(listener).context("taking a listener")?;
            let world = world.clone();
            match service.transport() {
                Transport::Https => {
                    tokio::spawn(serve::accept(world, listener, service, move |world, stream, peer| {
                        web::https(world, stream, peer, service)
                    }));
                }
                Transport::Http => {
                    tokio::spawn(serve::accept(world, listener, service, move |world, stream, peer| {
                        web::http(world, stream, peer, service)
                    }));
                }
                Transport::Messaging => {
                    tokio::spawn(serve::accept(world, listener, service, move |world, stream, peer| {
                        messaging::messaging(world, stream, peer, service)
                    }));
                }
                Transport::Dns | Transport::Ntp => {
                    tokio::spawn(serve::accept(world, listener, service, serve::dns_tcp));
                }
            }
        }
        if let Some(socket) = self.udp {
            let socket = tokio::net::UdpSocket::from_std(socket).context("taking a socket")?;
            let answer = if service == Service::Ntp { serve::ntp_answer } else { serve::dns_answer };
            tokio::spawn(serve::udp(world.clone(), socket, answer));
        }
        Ok(())
    }
}

fn listen(address: SocketAddrV4) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn packets(address: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn v4(address: SocketAddr, otherwise: SocketAddrV4) -> SocketAddrV4 {
    match address {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(_) => otherwise,
    }
}

fn refusal(service: Service, address: SocketAddrV4, error: &io::Error) -> Problem {
    let problem = Problem::work(format!("cannot listen at {address} for {service}: {error}"));
    match error.kind() {
        io::ErrorKind::AddrInUse => problem.hint(format!(
            "another program uses port {}: stop it (`ss -lntup` shows it), or choose another address or port",
            address.port()
        )),
        io::ErrorKind::PermissionDenied => problem.hint(
            "ports below 1024 need a privilege: run as root, or choose ports above with --port-offset or --port",
        ),
        io::ErrorKind::AddrNotAvailable => {
            problem.hint(format!("{} is no address of this machine: `ip address` lists them", address.ip()))
        }
        _ => problem,
    }
}
