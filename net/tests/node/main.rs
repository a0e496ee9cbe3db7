//! Whole nodes as child processes, on real sockets and real files.

#[cfg(test)]
mod backup;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod full_disk;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod hints;
#[cfg(test)]
mod http;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod objects;
#[cfg(test)]
mod protocol;
#[cfg(test)]
mod quantized;
#[cfg(test)]
mod raw;
#[cfg(test)]
mod repair;
#[cfg(test)]
mod replicas;
#[cfg(test)]
mod spread;
#[cfg(test)]
mod twin;

/// Not a test of its own: what a child process of the other tests runs.
#[test]
fn node_child() {
    harness::run_child_if_asked();
}
