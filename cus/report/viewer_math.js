// Cameras of the viewer. A view is { rotation, position, focal, center, size }: world to camera (nine numbers, row by
// row), the camera's place, and the intrinsics in pixels of a picture of that size. OpenCV axes, as everywhere here.

const add = (a, b, s = 1) => a.map((value, i) => value + s * b[i]);
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const norm = a => Math.hypot(...a);
const unit = a => a.map(value => value / norm(a));
const mix = (a, b, s) => a.map((value, i) => value + s * (b[i] - value));
const row = (rotation, i) => rotation.slice(3 * i, 3 * i + 3);
const rotate = (rotation, v) => [0, 1, 2].map(i => dot(row(rotation, i), v));

// World-to-camera rotations see the turned world: rows are the camera's axes, and each of them turns.
function turned(rotation, axis, angle) {
  const cosine = Math.cos(angle), sine = Math.sin(angle);
  return [0, 1, 2].flatMap(i => {
    const v = row(rotation, i), side = cross(axis, v), along = dot(axis, v) * (1 - cosine);
    return v.map((value, j) => value * cosine + side[j] * sine + axis[j] * along);
  });
}

// The view turned about a point that keeps its place in the picture.
function orbited(view, pivot, axis, angle) {
  const arm = add(view.position, pivot, -1);
  const cosine = Math.cos(angle), side = cross(axis, arm), along = dot(axis, arm) * (1 - cosine);
  const moved = arm.map((value, j) => value * cosine + side[j] * Math.sin(angle) + axis[j] * along);
  return { ...view, rotation: turned(view.rotation, axis, angle), position: add(pivot, moved) };
}

// The turn that carries one rotation into another: axis in the world, and angle.
function turnBetween(from, to) {
  const columns = i => [from[i], from[3 + i], from[6 + i]];
  // to^T from maps an axis of the world to where the turn takes it.
  const turn = [0, 1, 2].map(i => [0, 1, 2].map(j =>
    dot([to[i], to[3 + i], to[6 + i]], columns(j))));
  const skew = [turn[2][1] - turn[1][2], turn[0][2] - turn[2][0], turn[1][0] - turn[0][1]];
  const cosine = (turn[0][0] + turn[1][1] + turn[2][2] - 1) / 2, angle = Math.atan2(norm(skew) / 2, cosine);
  if (norm(skew) > 1e-9) return [unit(skew), angle];
  if (cosine > 0) return [[0, 0, 1], 0];
  // Half a turn: the axis is the longest column of turn + identity.
  const sums = [0, 1, 2].map(j => [0, 1, 2].map(i => turn[i][j] + (i === j)));
  return [unit(sums.reduce((best, v) => norm(v) > norm(best) ? v : best)), Math.PI];
}

// Between two views: centres linear, rotations spherical-linear, focal lengths geometric. The principal point follows
// the focal length, so that between two windows of one picture a zoom stays a zoom about one point.
function between(a, b, s) {
  if (s <= 0) return a;
  if (s >= 1) return b;
  const scale = a.size[0] / b.size[0]; // pictures of other sizes are shown at the size of the first
  const end = { focal: b.focal.map(f => f * scale), center: b.center.map(c => c * scale) };
  const focal = a.focal.map((f, i) => f * (end.focal[i] / f) ** s);
  const grown = a.focal.map((f, i) => Math.abs(end.focal[i] / f - 1) < 1e-6 ? s : (focal[i] - f) / (end.focal[i] - f));
  const center = a.center.map((c, i) => c + grown[i] * (end.center[i] - c));
  const [axis, angle] = turnBetween(a.rotation, b.rotation);
  const size = [a.size[0], a.size[1] + s * (b.size[1] * scale - a.size[1])];
  return { rotation: turned(a.rotation, axis, s * angle), position: mix(a.position, b.position, s), focal, center, size };
}

// Intrinsics in pixels of a canvas into which the whole picture fits, in its middle.
function fitted(view, width, height) {
  const scale = Math.min(width / view.size[0], height / view.size[1]);
  const shift = [(width - scale * view.size[0]) / 2, (height - scale * view.size[1]) / 2];
  return { focal: view.focal.map(f => f * scale), center: view.center.map((c, i) => c * scale + shift[i]) };
}

// The world point at a depth behind a pixel of such a canvas.
function worldPoint(view, [x, y], depth, width, height) {
  const { focal, center } = fitted(view, width, height);
  const ray = [(x - center[0]) / focal[0] * depth, (y - center[1]) / focal[1] * depth, depth];
  return [0, 1, 2].map(i => view.position[i] + dot([view.rotation[i], view.rotation[3 + i], view.rotation[6 + i]], ray));
}

const depthOf = (view, point) => dot(row(view.rotation, 2), add(point, view.position, -1));
