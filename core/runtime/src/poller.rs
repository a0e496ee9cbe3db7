//! Which sockets of a core have become readable or writable.
//!
//! Every socket is registered once, edge triggered, with one epoll instance of its core, and the
//! ring watches that instance alone. A request then costs no registration of its own: whatever
//! arrives while the core works is collected by one call when its turn ends. A wait in the ring for
//! each socket would cost a submission, a completion and an allocation for every request.
//!
//! An edge is reported once, so it is remembered here until the next wait takes it. Whoever waits
//! has found before that the socket gives nothing more.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use glommio::io::PollableFd;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::time::Timespec;

use crate::heartbeat;
use crate::queues::{handles, sleep};
use crate::ready::Readiness;

/// Events that one call takes from the kernel.
const EVENTS_PER_CALL: usize = 64;
/// Pause after the kernel refused to tell events.
const FAILURE_PAUSE: Duration = Duration::from_millis(10);

thread_local! {
    static POLLER: RefCell<Option<Rc<Poller>>> = const { RefCell::new(None) };
}

/// Forgets the poller of an executor that ran on this thread before.
pub(crate) fn reset() {
    POLLER.set(None);
}

/// One direction of a socket: one waiter at a time.
#[derive(Default)]
struct Direction {
    // An edge that nobody has taken yet.
    edge: Cell<bool>,
    task: Cell<Option<Waker>>,
}

impl Direction {
    fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.edge.replace(false) {
            return Poll::Ready(());
        }
        self.task.set(Some(context.waker().clone()));
        Poll::Pending
    }

    fn fire(&self) {
        self.edge.set(true);
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }
}

#[derive(Default)]
struct Watch {
    read: Direction,
    write: Direction,
    // The peer has finished, or the connection is broken: its end can be read at any time.
    closing: Cell<bool>,
}

impl Watch {
    fn fire(&self, flags: EventFlags) {
        let end = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        if flags.intersects(end) {
            self.closing.set(true);
        }
        if flags.intersects(EventFlags::IN | end) {
            self.read.fire();
        }
        if flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR) {
            self.write.fire();
        }
    }
}

/// The watches of a core by place. An event names its place and the watch's number, so one that is
/// still under way when its socket is closed never reaches the next socket at that place.
#[derive(Default)]
struct Places {
    watches: Vec<Option<(u32, Rc<Watch>)>>,
    free: Vec<u32>,
    next_number: u32,
}

impl Places {
    fn insert(&mut self, watch: &Rc<Watch>) -> u64 {
        let number = self.next_number;
        self.next_number = number.wrapping_add(1);
        let entry = Some((number, Rc::clone(watch)));
        let place = match self.free.pop() {
            Some(place) => {
                self.watches[place as usize] = entry;
                place
            }
            None => {
                self.watches.push(entry);
                (self.watches.len() - 1) as u32
            }
        };
        u64::from(number) << 32 | u64::from(place)
    }

    fn get(&self, key: u64) -> Option<Rc<Watch>> {
        let (number, watch) = self.watches.get(key as u32 as usize)?.as_ref()?;
        (*number == (key >> 32) as u32).then(|| Rc::clone(watch))
    }

    fn remove(&mut self, key: u64) {
        let place = key as u32;
        self.watches[place as usize] = None;
        self.free.push(place);
    }
}

struct Poller {
    epoll: PollableFd<OwnedFd>,
    readiness: Readiness,
    places: RefCell<Places>,
    // What the kernel tells is put here first.
    events: RefCell<Vec<Event>>,
}

impl Poller {
    /// The poller of this core; started with the first socket.
    fn of_this_core() -> io::Result<Rc<Self>> {
        if let Some(poller) = POLLER.with_borrow(Option::clone) {
            return Ok(poller);
        }
        let poller = Rc::new(Self {
            epoll: PollableFd::new(epoll::create(CreateFlags::CLOEXEC)?)?,
            readiness: Readiness::new(),
            places: RefCell::default(),
            events: RefCell::new(Vec::with_capacity(EVENTS_PER_CALL)),
        });
        POLLER.set(Some(Rc::clone(&poller)));
        // Events are only handed on there, like messages between cores.
        glommio::spawn_local_into(run(Rc::clone(&poller)), handles().mesh)
            .expect("the queues of a core live as long as the core")
            .detach();
        Ok(poller)
    }

    /// Hands on the events that have come.
    fn collect(&self) -> io::Result<()> {
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut events = self.events.borrow_mut();
        loop {
            events.clear();
            let room = rustix::buffer::spare_capacity(&mut events);
            epoll::wait(self.epoll.get_ref(), room, Some(&at_once))?;
            for event in events.iter() {
                let watch = self.places.borrow().get(event.data.u64());
                if let Some(watch) = watch {
                    watch.fire(event.flags);
                }
            }
            if events.len() < EVENTS_PER_CALL {
                return Ok(());
            }
        }
    }
}

/// Looks for events of sockets at once instead of at the end of the turn.
///
/// A turn is ended by several system calls; a core that asks here when it has run out of work goes
/// on within its turn. Cost: one system call.
pub fn look_for_events() {
    let poller = POLLER.with_borrow(Option::clone);
    if let Some(poller) = poller {
        // An error is not lost: the ring finds the same events and meets it again.
        let _ = poller.collect();
    }
}

async fn run(poller: Rc<Poller>) {
    loop {
        let mut outcome = poller.readiness.wait(&poller.epoll).await;
        if outcome.is_ok() {
            heartbeat::note_activity();
            outcome = poller.collect();
        }
        match outcome {
            Ok(()) => {}
            Err(error) if Errno::from_io_error(&error) == Some(Errno::INTR) => {}
            Err(error) => {
                tracing::error!(%error, "the events of sockets cannot be read; tried again");
                sleep(FAILURE_PAUSE).await;
            }
        }
    }
}

/// A socket that this core is told about.
pub(crate) struct Watched {
    descriptor: OwnedFd,
    watch: Rc<Watch>,
    key: u64,
    poller: Rc<Poller>,
}

impl Watched {
    /// Registers a socket that does not block. Errors: the operating system's.
    pub(crate) fn new(descriptor: OwnedFd) -> io::Result<Self> {
        let poller = Poller::of_this_core()?;
        let watch = Rc::new(Watch::default());
        let key = poller.places.borrow_mut().insert(&watch);
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let added = epoll::add(poller.epoll.get_ref(), &descriptor, EventData::new_u64(key), flags);
        if let Err(error) = added {
            poller.places.borrow_mut().remove(key);
            return Err(error.into());
        }
        Ok(Self { descriptor, watch, key, poller })
    }

    pub(crate) fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }

    /// Ready once a read that found nothing may be tried again; it may still find nothing.
    pub(crate) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        self.watch.read.poll(context)
    }

    /// Ready once a write that found no room may be tried again.
    pub(crate) fn poll_writable(&self, context: &mut Context<'_>) -> Poll<()> {
        self.watch.write.poll(context)
    }

    /// Has the end of the stream been announced? No edge follows then.
    pub(crate) fn is_closing(&self) -> bool {
        self.watch.closing.get()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.poller.places.borrow_mut().remove(self.key);
        // It is closed right after, which would end the registration as well.
        let _ = epoll::delete(self.poller.epoll.get_ref(), self.descriptor.as_fd());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_event_does_not_reach_the_next_socket_at_its_place() {
        let mut places = Places::default();
        let (old, new) = (Rc::new(Watch::default()), Rc::new(Watch::default()));
        let old_key = places.insert(&old);
        places.remove(old_key);
        let new_key = places.insert(&new);
        assert_eq!(old_key as u32, new_key as u32, "the place is used again");
        assert!(places.get(old_key).is_none());
        assert!(Rc::ptr_eq(&places.get(new_key).unwrap(), &new));
    }

    #[test]
    fn an_edge_before_the_wait_is_not_lost_and_counts_once() {
        let direction = Direction::default();
        let mut context = Context::from_waker(Waker::noop());
        direction.fire();
        assert!(direction.poll(&mut context).is_ready());
        assert!(direction.poll(&mut context).is_pending());
        direction.fire();
        assert!(direction.poll(&mut context).is_ready());
    }

    #[test]
    fn the_end_of_a_stream_ends_both_waits() {
        let watch = Watch::default();
        let mut context = Context::from_waker(Waker::noop());
        watch.fire(EventFlags::RDHUP | EventFlags::IN);
        assert!(watch.closing.get());
        assert!(watch.read.poll(&mut context).is_ready());
        assert!(watch.write.poll(&mut context).is_pending(), "a peer that only ends may read");
        watch.fire(EventFlags::HUP);
        assert!(watch.read.poll(&mut context).is_ready());
        assert!(watch.write.poll(&mut context).is_ready());
    }
}
