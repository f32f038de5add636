//! The demo registry on a simulated network: its conversations, carried by simulated peers.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use ringpull::demo::{Conversation, Door, Registry, Step};
use ringpull::transport::engine::sim::{Network, Peer};
use tokio::task::spawn_local;
use tokio::time::{Duration, sleep};

/// What becomes of the steps of an answer.
pub type Change = Rc<dyn Fn(Vec<Step>) -> Vec<Step>>;

/// Serves all doors of a registry, for as long as the runtime lives.
pub fn serve(network: &Network, registry: &Rc<Registry>) {
    serve_changed(network, registry, Rc::new(|steps| steps));
}

/// The same, with each answer changed.
pub fn serve_changed(network: &Network, registry: &Rc<Registry>, change: Change) {
    for (nth, door) in [Door::Registry, Door::Storage, Door::Token].into_iter().enumerate() {
        let address = registry.address();
        let address = SocketAddr::new(address.ip(), address.port() + nth as u16);
        let listener = network.listen(address);
        let (network, registry) = (network.clone(), Rc::clone(registry));
        let change = Rc::clone(&change);
        spawn_local(async move {
            loop {
                let peer = listener.accept().await;
                let conversation = registry.converse(door);
                let (network, change) = (network.clone(), Rc::clone(&change));
                spawn_local(async move {
                    let number = peer.number();
                    let ended = converse(&network, peer, conversation, &change).await;
                    network.trace(|| format!("#{number} peer ends: {ended:?}"));
                });
            }
        });
    }
}

async fn converse(
    network: &Network,
    peer: Peer,
    mut conversation: Conversation,
    change: &Change,
) -> io::Result<&'static str> {
    let mut buffer = [0; 4096];
    loop {
        while let Some(steps) = conversation.answer() {
            let steps = change(steps);
            let number = peer.number();
            network.trace(|| format!("#{number} peer answers: {}", shown(&steps)));
            for step in steps {
                match step {
                    Step::Send(bytes) => peer.write_all(bytes).await?,
                    Step::Drip { mut bytes, size, every } => {
                        while !bytes.is_empty() {
                            let piece = bytes.split_to(bytes.len().min(size.max(1)));
                            peer.write_all(piece).await?;
                            pause(&peer, every).await?;
                        }
                    }
                    Step::Wait(time) => pause(&peer, time).await?,
                    Step::ShutdownWrite => peer.finish(),
                    Step::Hold => {
                        peer.closed().await;
                        return Ok("held");
                    }
                    Step::Close | Step::CloseWithoutNotify => {
                        peer.close();
                        return Ok("closed");
                    }
                    Step::Reset => {
                        peer.reset();
                        return Ok("reset");
                    }
                    Step::Receive(_) | Step::Pause => unreachable!("no registry takes this step"),
                }
            }
        }
        match peer.read(&mut buffer).await? {
            0 => return Ok("done"),
            count => conversation.received(&buffer[..count]),
        }
    }
}

/// Waits, unless the client goes first.
async fn pause(peer: &Peer, time: Duration) -> io::Result<()> {
    tokio::select! {
        biased;
        () = peer.closed() => Err(io::ErrorKind::ConnectionAborted.into()),
        () = sleep(time) => Ok(()),
    }
}

fn shown(steps: &[Step]) -> String {
    let step = |step: &Step| match step {
        Step::Send(bytes) => format!("send {}", bytes.len()),
        Step::Drip { bytes, size, every } => format!("drip {} by {size}, {every:?}", bytes.len()),
        other => format!("{other:?}"),
    };
    steps.iter().map(step).collect::<Vec<_>>().join(", ")
}
