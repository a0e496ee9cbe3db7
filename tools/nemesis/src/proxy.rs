//! A TCP proxy for every link between two nodes, by which the network fails in each direction on
//! its own.
//!
//! A node dials the address that its environment gives for another one; behind it a thread takes
//! connections and two threads each move the bytes of one direction.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Ports on which nodes talk to each other: about the cluster, and core to core with one core.
const PEER_PORTS: [u16; 2] = [7500, 7600];
const BUFFER_BYTES: usize = 64 << 10;
/// How often a direction that is cut looks whether it is whole again.
const LOOK: Duration = Duration::from_millis(5);
/// How long a pump waits for bytes before it looks at its direction.
const READ_LIMIT: Duration = Duration::from_millis(200);

/// What the directions of all links are like.
pub(crate) struct Network {
    nodes: usize,
    directions: Vec<Direction>,
    is_over: AtomicBool,
    /// Connections that were reset, and bytes that were held back.
    pub(crate) resets: AtomicU64,
    pub(crate) held_bytes: AtomicU64,
}

#[derive(Default)]
struct Direction {
    is_cut: AtomicBool,
    delay_us: AtomicU64,
    /// A connection is reset once in so many reads; never for 0.
    reset_one_in: AtomicU64,
    reads: AtomicU64,
}

impl Network {
    pub(crate) fn new(nodes: usize) -> Arc<Self> {
        let directions = std::iter::repeat_with(Direction::default).take(nodes * nodes).collect();
        Arc::new(Self {
            nodes,
            directions,
            is_over: AtomicBool::new(false),
            resets: AtomicU64::new(0),
            held_bytes: AtomicU64::new(0),
        })
    }

    fn direction(&self, source: usize, target: usize) -> &Direction {
        &self.directions[source * self.nodes + target]
    }

    /// Nothing passes from one node to another until it is mended.
    pub(crate) fn cut(&self, source: usize, target: usize) {
        self.direction(source, target).is_cut.store(true, Ordering::Relaxed);
    }

    pub(crate) fn slow(&self, source: usize, target: usize, delay: Duration) {
        let us = delay.as_micros() as u64;
        self.direction(source, target).delay_us.store(us, Ordering::Relaxed);
    }

    pub(crate) fn reset_one_in(&self, source: usize, target: usize, times: u64) {
        self.direction(source, target).reset_one_in.store(times, Ordering::Relaxed);
    }

    /// Everything passes.
    pub(crate) fn mend(&self) {
        for direction in &self.directions {
            direction.is_cut.store(false, Ordering::Relaxed);
            direction.delay_us.store(0, Ordering::Relaxed);
            direction.reset_one_in.store(0, Ordering::Relaxed);
        }
    }

    /// Ends all threads before long.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Takes connections of one node to another at an address of their link.
    pub(crate) fn link(
        self: &Arc<Self>,
        (source, target): (usize, usize),
        route: Ipv4Addr,
        real: Ipv4Addr,
    ) -> io::Result<()> {
        for port in PEER_PORTS {
            let listener = TcpListener::bind((route, port))?;
            listener.set_nonblocking(true)?;
            let network = Arc::clone(self);
            std::thread::spawn(move || {
                while !network.is_over() {
                    match listener.accept() {
                        Ok((dialer, _)) => network.join((source, target), dialer, (real, port)),
                        Err(_) => std::thread::sleep(LOOK),
                    }
                }
            });
        }
        Ok(())
    }

    fn join(
        self: &Arc<Self>,
        (source, target): (usize, usize),
        dialer: TcpStream,
        real: (Ipv4Addr, u16),
    ) {
        // A node that is down refuses, and so does its proxy.
        let Ok(listener) = TcpStream::connect(real) else { return };
        let ends = [dialer.try_clone(), listener.try_clone()];
        let [Ok(dialer_again), Ok(listener_again)] = ends else { return };
        for (direction, from, to) in
            [((source, target), dialer, listener), ((target, source), listener_again, dialer_again)]
        {
            let network = Arc::clone(self);
            std::thread::spawn(move || {
                // The end of one direction is the end of both.
                let _ = network.pump(direction, &from, &to);
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
            });
        }
    }

    fn pump(
        &self,
        (source, target): (usize, usize),
        mut from: &TcpStream,
        mut to: &TcpStream,
    ) -> io::Result<()> {
        from.set_nonblocking(false)?;
        from.set_read_timeout(Some(READ_LIMIT))?;
        to.set_nodelay(true)?;
        let direction = self.direction(source, target);
        let mut buffer = vec![0; BUFFER_BYTES];
        while !self.is_over() {
            let length = match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => length,
                Err(error) if is_timeout(&error) => continue,
                Err(error) => return Err(error),
            };
            if direction.is_cut.load(Ordering::Relaxed) {
                self.held_bytes.fetch_add(length as u64, Ordering::Relaxed);
            }
            while direction.is_cut.load(Ordering::Relaxed) && !self.is_over() {
                std::thread::sleep(LOOK);
            }
            let delay_us = direction.delay_us.load(Ordering::Relaxed);
            if delay_us > 0 {
                self.held_bytes.fetch_add(length as u64, Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(delay_us));
            }
            let one_in = direction.reset_one_in.load(Ordering::Relaxed);
            let reads = direction.reads.fetch_add(1, Ordering::Relaxed);
            if one_in > 0 && (reads + 1).is_multiple_of(one_in) {
                self.resets.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            to.write_all(&buffer[..length])?;
        }
        Ok(())
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_pass_both_ways_and_a_cut_holds_one_of_them() {
        let (route, real) = (Ipv4Addr::new(127, 91, 1, 2), Ipv4Addr::new(127, 91, 0, 2));
        let node = TcpListener::bind((real, PEER_PORTS[1])).unwrap();
        let network = Network::new(2);
        network.link((0, 1), route, real).unwrap();
        let mut dialer = TcpStream::connect((route, PEER_PORTS[1])).unwrap();
        dialer.write_all(b"hello").unwrap();
        let (mut taken, _) = node.accept().unwrap();
        let mut bytes = [0; 5];
        taken.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
        network.cut(0, 1);
        taken.write_all(b"there").unwrap();
        dialer.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"there", "the way back stays");
        dialer.write_all(b"again").unwrap();
        while network.held_bytes.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        network.mend();
        taken.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"again", "it comes late, not never");
        network.end();
    }
}
