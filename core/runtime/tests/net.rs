//! Do sockets carry bytes both ways, share ports between cores and keep strangers out?

#![expect(clippy::unwrap_used, reason = "helpers of tests fail their test")]

use std::cell::Cell;
use std::io::{ErrorKind, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use heddle_runtime::guard::GuardError;
use heddle_runtime::{
    DatagramSocket, Listener, PortGuard, Queue, Socket, SocketStream, run_single, sleep,
    spawn_joinable, timeout, yield_now,
};

const LIMIT: Duration = Duration::from_secs(60);

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

async fn pair() -> (Rc<Socket>, Rc<Socket>) {
    let listener = Listener::bind(any_port()).unwrap();
    let client = Socket::connect(listener.local_address(), LIMIT).await.unwrap();
    let accepted = listener.accept().await.unwrap();
    assert!(accepted.peer_address().ip().is_loopback());
    (Rc::new(client), Rc::new(accepted.into_socket().unwrap()))
}

#[test]
fn both_directions_run_at_once_over_one_socket() {
    run_single(async {
        let (client, server) = pair().await;
        let length = 8 << 20;
        let sent: Vec<u8> = (0..length).map(|place: u32| (place / 251) as u8).collect();
        let sent = Rc::new(sent);
        let mut tasks = Vec::new();
        for socket in [client, server] {
            let (writer, reader) = (Rc::clone(&socket), socket);
            let (out, expected) = (Rc::clone(&sent), Rc::clone(&sent));
            tasks.push(spawn_joinable(Queue::Search, async move {
                let (head, tail) = out.split_at(1_000);
                let mut pieces = [IoSlice::new(head), IoSlice::new(&[]), IoSlice::new(tail)];
                writer.write_all_vectored(&mut pieces).await.unwrap();
            }));
            tasks.push(spawn_joinable(Queue::Search, async move {
                let mut header = [0; 24];
                reader.read_exact(&mut header).await.unwrap();
                assert_eq!(header, expected[..24]);
                let mut body = Vec::new();
                reader.read_body(&mut body, expected.len() - 24).await.unwrap();
                assert!(body == expected[24..]);
            }));
        }
        for task in tasks {
            assert_eq!(task.await, Some(()));
        }
    })
    .unwrap();
}

#[test]
fn an_announced_body_that_does_not_come_costs_one_step_of_memory() {
    run_single(async {
        let (client, server) = pair().await;
        client.write_all(b"few").await.unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut body = Vec::new();
        let short = server.read_body(&mut body, 1 << 40).await.unwrap_err();
        assert_eq!(short.kind(), ErrorKind::UnexpectedEof);
        assert!(body.capacity() <= 2 * heddle_types::limits::BODY_GROWTH_BYTES);
        assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
    })
    .unwrap();
}

#[test]
fn a_waiting_read_ends_when_another_task_shuts_the_socket() {
    run_single(async {
        let (_client, server) = pair().await;
        let reader = Rc::clone(&server);
        let task =
            spawn_joinable(Queue::Search, async move { reader.read(&mut [0; 8]).await.unwrap() });
        yield_now().await;
        server.shutdown(Shutdown::Both).unwrap();
        assert_eq!(timeout(LIMIT, task).await, Ok(Some(0)));
    })
    .unwrap();
}

#[test]
fn a_read_that_was_given_up_loses_no_bytes() {
    run_single(async {
        let (client, server) = pair().await;
        let mut buffer = [0; 8];
        for _ in 0..20 {
            let given_up = timeout(Duration::from_millis(1), server.read(&mut buffer)).await;
            assert!(given_up.is_err());
        }
        client.write_all(b"abc").await.unwrap();
        assert_eq!(server.read(&mut buffer).await.unwrap(), 3);
        assert_eq!(&buffer[..3], b"abc");
    })
    .unwrap();
}

#[test]
fn a_quiet_socket_polled_beside_a_busy_channel_wakes_up_once() {
    run_single(async {
        let (client, server) = pair().await;
        let (sender, mut receiver) = futures::channel::mpsc::unbounded::<u32>();
        let task = spawn_joinable(Queue::Search, async move {
            let mut buffer = [0; 8];
            let mut read = std::pin::pin!(server.read(&mut buffer));
            let mut count = 0;
            loop {
                use futures::StreamExt;
                match futures::future::select(receiver.next(), &mut read).await {
                    futures::future::Either::Left(_) => count += 1,
                    futures::future::Either::Right((read, _)) => return (count, read.unwrap()),
                }
            }
        });
        for value in 0..1_000 {
            sender.unbounded_send(value).unwrap();
            yield_now().await;
        }
        client.write_all(b"x").await.unwrap();
        assert_eq!(timeout(LIMIT, task).await, Ok(Some((1_000, 1))));
        drop(sender);
    })
    .unwrap();
}

#[test]
fn the_futures_traits_see_the_same_socket() {
    use futures::{AsyncReadExt, AsyncWriteExt};
    run_single(async {
        let (client, server) = pair().await;
        let mut client = SocketStream { socket: client };
        let mut server = SocketStream { socket: server };
        client.write_all(b"hello").await.unwrap();
        client.close().await.unwrap();
        let mut text = String::new();
        server.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
    })
    .unwrap();
}

#[test]
fn connecting_to_nobody_is_refused_and_to_silence_times_out() {
    run_single(async {
        // A port that was free a moment ago may have been given to somebody else.
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        let refused = Socket::connect(nobody, LIMIT).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        let server = std::net::TcpListener::bind(any_port()).unwrap();
        // A peer that never takes its bytes: the write waits, and giving up is possible.
        let client = Socket::connect(server.local_addr().unwrap(), LIMIT).await.unwrap();
        let bytes = vec![0; 64 << 20];
        let late = timeout(Duration::from_millis(20), client.write_all(&bytes)).await;
        assert!(late.is_err());
    })
    .unwrap();
}

/// Accepts so many connections in all; how many came to each of two listeners.
async fn accept_all(first: &Listener, second: &Listener, total: u32) -> [u32; 2] {
    let (counts, left) = ([Cell::new(0), Cell::new(0)], Cell::new(total));
    let accept = async |listener: &Listener, count: &Cell<u32>| {
        while left.get() > 0 {
            listener.accept().await.unwrap();
            count.set(count.get() + 1);
            left.set(left.get() - 1);
        }
    };
    let ones = std::pin::pin!(accept(first, &counts[0]));
    let others = std::pin::pin!(accept(second, &counts[1]));
    // The other one waits for a connection that never comes.
    futures::future::select(ones, others).await;
    counts.each_ref().map(Cell::get)
}

#[test]
fn several_listeners_of_one_process_share_a_port_that_strangers_cannot_have() {
    run_single(async {
        let free = std::net::TcpListener::bind(any_port()).unwrap();
        let address = free.local_addr().unwrap();
        assert!(matches!(
            PortGuard::acquire(&[any_port(), address]),
            Err(GuardError::InUse { address: named }) if named == address
        ));
        drop(free);
        let guard = PortGuard::acquire(&[address]).unwrap();
        let first = Listener::bind(address).unwrap();
        let second = Listener::bind(address).unwrap();
        // Without the guard a third listener would steal connections silently.
        let refused = PortGuard::acquire(&[address]).unwrap_err();
        assert_eq!(refused.to_string(), format!("{address} is in use by another process"));
        let everywhere = SocketAddr::from(([0, 0, 0, 0], address.port()));
        assert!(PortGuard::acquire(&[everywhere]).is_err(), "the wildcard covers the address");
        let mut clients = Vec::new();
        for _ in 0..64 {
            clients.push(Socket::connect(address, LIMIT).await.unwrap());
        }
        let counts = accept_all(&first, &second, 64).await;
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
        drop((first, second, guard));
        // Connections of the old process still fade; the port is free all the same.
        let again = PortGuard::acquire(&[address]).unwrap();
        assert_eq!(Listener::bind(address).unwrap().local_address(), address);
        drop((again, clients));
        sleep(Duration::from_millis(1)).await;
    })
    .unwrap();
}

#[test]
fn datagrams_arrive_whole_in_order_and_with_their_source() {
    run_single(async {
        let one = DatagramSocket::bind(any_port()).unwrap();
        let other = DatagramSocket::bind(any_port()).unwrap();
        for number in 0..200_u8 {
            one.try_send(&vec![number; usize::from(number)], other.local_address()).unwrap();
        }
        let mut buffer = [0; 256];
        for number in 0..200_u8 {
            let (count, source) =
                timeout(LIMIT, other.receive(&mut buffer)).await.unwrap().unwrap();
            assert_eq!(source, one.local_address());
            assert_eq!(buffer[..count], vec![number; usize::from(number)]);
        }
    })
    .unwrap();
}

#[test]
fn a_datagram_wakes_the_task_that_waits_for_it_each_time() {
    run_single(async {
        let one = Rc::new(DatagramSocket::bind(any_port()).unwrap());
        let other = DatagramSocket::bind(any_port()).unwrap();
        let (echo, target) = (Rc::clone(&one), other.local_address());
        let echoing = spawn_joinable(Queue::Search, async move {
            let mut buffer = [0; 16];
            for _ in 0..500 {
                let (count, source) = echo.receive(&mut buffer).await.unwrap();
                assert_eq!(source, target);
                echo.try_send(&buffer[..count], source).unwrap();
            }
        });
        let mut buffer = [0; 16];
        for number in 0..500_u64 {
            // The task that echoes waits already: it has found its socket empty.
            yield_now().await;
            other.try_send(&number.to_le_bytes(), one.local_address()).unwrap();
            let (count, _) = timeout(LIMIT, other.receive(&mut buffer)).await.unwrap().unwrap();
            assert_eq!(buffer[..count], number.to_le_bytes());
        }
        assert_eq!(echoing.await, Some(()));
    })
    .unwrap();
}

#[test]
fn a_longer_datagram_is_cut_and_a_peer_that_is_gone_breaks_nothing() {
    run_single(async {
        let one = DatagramSocket::bind(any_port()).unwrap();
        let other = DatagramSocket::bind(any_port()).unwrap();
        let gone = DatagramSocket::bind(any_port()).unwrap().local_address();
        one.try_send(&[1; 40], gone).unwrap();
        one.try_send(&[2; 40], other.local_address()).unwrap();
        one.try_send(&[3; 8], other.local_address()).unwrap();
        let mut buffer = [0; 32];
        assert_eq!(other.receive(&mut buffer).await.unwrap(), (32, one.local_address()));
        assert_eq!(other.receive(&mut buffer).await.unwrap(), (8, one.local_address()));
        assert_eq!(buffer[..9], [3, 3, 3, 3, 3, 3, 3, 3, 2]);
        other.try_send(&[4], one.local_address()).unwrap();
        assert_eq!(one.receive(&mut buffer).await.unwrap(), (1, other.local_address()));
    })
    .unwrap();
}

#[test]
fn an_address_for_datagrams_belongs_to_one_socket_and_is_free_after_it() {
    run_single(async {
        let one = DatagramSocket::bind(any_port()).unwrap();
        let address = one.local_address();
        let second = DatagramSocket::bind(address).unwrap_err();
        assert_eq!(second.kind(), ErrorKind::AddrInUse);
        drop(one);
        assert_eq!(DatagramSocket::bind(address).unwrap().local_address(), address);
    })
    .unwrap();
}

#[test]
fn both_families_carry_datagrams() {
    run_single(async {
        let one = match DatagramSocket::bind("[::1]:0".parse().unwrap()) {
            Ok(socket) => socket,
            // The machine has IPv6 switched off.
            Err(error) => return assert_eq!(error.kind(), ErrorKind::AddrNotAvailable),
        };
        one.try_send(b"own", one.local_address()).unwrap();
        let mut buffer = [0; 8];
        assert_eq!(one.receive(&mut buffer).await.unwrap(), (3, one.local_address()));
    })
    .unwrap();
}
