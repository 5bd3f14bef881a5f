#version 300 es
// Four vertices a Gaussian, one quad: the projection of cus/splats/projection.py (EWA splatting).
precision highp float;
precision highp int;
precision highp usampler2D;

uniform usampler2D gaussians; // two texels each: position, then ten 16-bit fields (cus/report/viewer.py)
uniform usampler2D order;     // farthest first
uniform usampler2D harmonics; // coefficients above degree 0, one byte each
uniform int degree;
uniform vec2 logScales;   // what the fields 0 and 65535 stand for
uniform vec2 colors;
uniform vec3 bands;       // largest coefficient of each degree 1 to 3
uniform mat3 rotation;    // world to camera
uniform vec3 position;    // of the camera
uniform vec2 focal;       // pixels
uniform vec2 center;
uniform vec2 size;
uniform float near;
uniform bool antialiased;
uniform float depthScale; // above 0: depth times this in place of colour

out vec2 offset;          // from the centre, in standard deviations
flat out vec4 seen;       // colour, and opacity at the centre

const float LOW_PASS = 0.3;
const float CUTOFF = 1.0 / 255.0;
const float MARGIN = 0.3;
const float SH_C0 = 0.28209479177387814;

const int TEXELS = 2048; // a row of each texture

ivec2 place(int texel) { return ivec2(texel % TEXELS, texel / TEXELS); }

float unit(uint field) { return float(field) / 65535.0; }

mat3 turned(uint a, uint b, uint c) {
  uint largest = (a >> 15) | ((b >> 15) << 1);
  vec3 others = (vec3(a & 0x7fffu, b & 0x7fffu, c & 0x7fffu) / 32767.0 * 2.0 - 1.0) * 0.7071067811865476;
  float rest = sqrt(max(0.0, 1.0 - dot(others, others)));
  vec4 q = largest == 0u ? vec4(rest, others)
    : largest == 1u ? vec4(others.x, rest, others.yz)
    : largest == 2u ? vec4(others.xy, rest, others.z) : vec4(others, rest);
  q = normalize(q);
  float w = q.x, x = q.y, y = q.z, z = q.w;
  return mat3(
    1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y + w * z), 2.0 * (x * z - w * y),
    2.0 * (x * y - w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z + w * x),
    2.0 * (x * z + w * y), 2.0 * (y * z - w * x), 1.0 - 2.0 * (x * x + y * y));
}

float stored(int first, int number) {
  uint bits = texelFetch(harmonics, place(first + number / 4), 0).x;
  return float(int(bits << uint(24 - 8 * (number % 4))) >> 24) / 127.0;
}

vec3 coefficient(int first, int k) {
  return vec3(stored(first, 3 * k - 3), stored(first, 3 * k - 2), stored(first, 3 * k - 1));
}

// Real spherical harmonics above degree 0, in the order and signs of cus/splats/sh.py.
vec3 directional(int index, vec3 d) {
  int words = degree == 1 ? 3 : degree == 2 ? 6 : 12;
  int first = index * words;
  float x = d.x, y = d.y, z = d.z, xx = x * x, yy = y * y, zz = z * z;
  vec3 sum = bands.x * 0.4886025119029199
    * (-y * coefficient(first, 1) + z * coefficient(first, 2) - x * coefficient(first, 3));
  if (degree >= 2)
    sum += bands.y * (1.0925484305920792
      * (x * y * coefficient(first, 4) - y * z * coefficient(first, 5) - x * z * coefficient(first, 7))
      + 0.31539156525252005 * (2.0 * zz - xx - yy) * coefficient(first, 6)
      + 0.5462742152960396 * (xx - yy) * coefficient(first, 8));
  if (degree >= 3)
    sum += bands.z * (-0.5900435899266435
      * (y * (3.0 * xx - yy) * coefficient(first, 9) + x * (xx - 3.0 * yy) * coefficient(first, 15))
      + 2.890611442640554 * x * y * z * coefficient(first, 10)
      - 0.4570457994644658 * (4.0 * zz - xx - yy) * (y * coefficient(first, 11) + x * coefficient(first, 13))
      + 0.3731763325901154 * z * (2.0 * zz - 3.0 * xx - 3.0 * yy) * coefficient(first, 12)
      + 1.445305721320277 * z * (xx - yy) * coefficient(first, 14));
  return sum;
}

void main() {
  gl_Position = vec4(0.0, 0.0, 2.0, 1.0); // outside, where nothing is drawn
  int index = int(texelFetch(order, place(gl_VertexID / 4), 0).x);
  uvec4 first = texelFetch(gaussians, place(2 * index), 0);
  uvec4 second = texelFetch(gaussians, place(2 * index + 1), 0);
  vec3 ray = uintBitsToFloat(first.xyz) - position;
  vec3 point = rotation * ray;
  if (point.z < near) return;

  mat3 axes = turned(first.w & 0xffffu, first.w >> 16, second.x & 0xffffu);
  vec3 steps = vec3(unit(second.x >> 16), unit(second.y & 0xffffu), unit(second.y >> 16));
  vec3 scales = exp(mix(vec3(logScales.x), vec3(logScales.y), steps));
  vec2 slope = point.xy / point.z;
  vec2 middle = slope * focal + center;
  // The linearisation explodes beside the camera: it is taken at most this far outside the picture.
  slope = clamp(slope, (-center - MARGIN * 0.5 * size) / focal, (size - center + MARGIN * 0.5 * size) / focal);
  mat3 rows = transpose(rotation);
  vec3 rowX = ((rows[0] - slope.x * rows[2]) * (focal.x / point.z)) * axes * scales;
  vec3 rowY = ((rows[1] - slope.y * rows[2]) * (focal.y / point.z)) * axes * scales;
  float xx = dot(rowX, rowX), xy = dot(rowX, rowY), yy = dot(rowY, rowY);
  vec3 normal = cross(rowX, rowY);
  float sharp = dot(normal, normal);
  float determinant = sharp + LOW_PASS * (xx + yy + LOW_PASS);
  float opacity = unit(second.w >> 16) * (antialiased ? sqrt(sharp / determinant) : 1.0);
  if (opacity < CUTOFF) return;

  float difference = 0.5 * (xx - yy);
  float longest = 0.5 * (xx + yy) + LOW_PASS + length(vec2(difference, xy));
  float angle = 0.5 * atan(xy, difference + 1e-20);
  vec2 along = vec2(cos(angle), sin(angle));
  float extent = sqrt(2.0 * log(opacity / CUTOFF));
  offset = extent * vec2(gl_VertexID & 1, (gl_VertexID >> 1) & 1) * 2.0 - extent;
  vec2 pixel = middle + offset.x * sqrt(longest) * along
    + offset.y * sqrt(determinant / longest) * vec2(-along.y, along.x);

  vec3 storedColor = vec3(unit(second.z & 0xffffu), unit(second.z >> 16), unit(second.w & 0xffffu));
  vec3 color = 0.5 + SH_C0 * mix(vec3(colors.x), vec3(colors.y), storedColor);
  if (degree > 0) color += directional(index, normalize(ray));
  seen = vec4(depthScale > 0.0 ? vec3(point.z * depthScale) : max(color, 0.0), opacity);
  gl_Position = vec4(2.0 * pixel.x / size.x - 1.0, 1.0 - 2.0 * pixel.y / size.y, 0.0, 1.0);
}
