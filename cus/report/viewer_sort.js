// Draws farthest first, as alpha compositing needs it.

// Sorts Gaussians by depth along an axis: two stable passes of a 16-bit counting sort over the bits of the depths, whose
// order is that of the numbers because none is negative. Stands alone: a worker is made from its source.
function makeSort(positions) {
  const count = positions.length / 3;
  const depths = new Float32Array(count), bits = new Uint32Array(depths.buffer);
  const ids = new Uint32Array(count), sorted = new Uint32Array(count), starts = new Uint32Array(65537);
  function pass(from, to, n, shift) {
    starts.fill(0);
    for (let i = 0; i < n; i++) starts[65535 - ((bits[from[i]] >>> shift) & 65535) + 1]++;
    for (let i = 0; i < 65536; i++) starts[i + 1] += starts[i];
    for (let i = 0; i < n; i++) to[starts[65535 - ((bits[from[i]] >>> shift) & 65535)]++] = from[i];
  }
  return (axis, position, near) => {
    const [a, b, c] = axis, [x, y, z] = position;
    let n = 0;
    for (let i = count - 1; i >= 0; i--) {
      depths[i] = a * (positions[3 * i] - x) + b * (positions[3 * i + 1] - y) + c * (positions[3 * i + 2] - z);
      if (depths[i] >= near) ids[n++] = i;
    }
    pass(ids, sorted, n, 0);
    pass(sorted, ids, n, 16);
    return ids.slice(0, n);
  };
}

// Sorts away from the page's own thread where the browser lets it, one order at a time, the newest wish next.
class Sorter {
  constructor(positions, near, onOrder) {
    this.near = near;
    this.onOrder = onOrder;
    this.wish = null;
    this.busy = false;
    this.positions = positions;
    this.worker = this.startWorker();
  }

  startWorker() {
    const source = `${makeSort}
      let sort = null;
      onmessage = ({ data }) => {
        if (data.positions) { sort = makeSort(data.positions); return; }
        const order = sort(data.axis, data.position, data.near);
        postMessage({ order, asked: data }, [order.buffer]);
      };`;
    try {
      const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
      worker.onmessage = ({ data }) => this.finished(data.order, data.asked);
      worker.onerror = () => { this.worker = null; this.wish ??= this.asked; this.next(); };
      worker.postMessage({ positions: this.positions });
      return worker;
    } catch (refused) {
      return null; // a page from the file system may be denied workers: next() sorts here
    }
  }

  sort(axis, position) {
    this.wish = { axis, position, near: this.near };
    if (!this.busy) this.next();
  }

  next() {
    const asked = this.asked = this.wish;
    this.wish = null;
    this.busy = asked !== null;
    if (!asked) return;
    if (this.worker) { this.worker.postMessage(asked); return; }
    this.sortHere ??= makeSort(this.positions);
    this.finished(this.sortHere(asked.axis, asked.position, asked.near), asked);
  }

  finished(order, asked) {
    this.onOrder(order, asked);
    this.next();
  }
}
