-- Posts files in rotation: wrk -s wrk.lua URL -- CONTENT-TYPE FILE…
-- The requests are made once; what is left to do between two of them is a look-up.

local requests = {}
local next_one = 0

function init(args)
  local headers = { ["Content-Type"] = args[1] }
  for name, value in pairs(wrk.headers) do
    headers[name] = value
  end
  for number = 2, #args do
    local file = assert(io.open(args[number], "rb"))
    requests[#requests + 1] = wrk.format("POST", nil, headers, file:read("*a"))
    file:close()
  end
end

function request()
  next_one = next_one % #requests + 1
  return requests[next_one]
end

-- One line of JSON. wrk counts microseconds.
function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %.6f, "p50": %.6f, "p90": %.6f, "p99": %.6f, "max": %.6f, '
      .. '"refused": %d, "failed": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e6, latency:percentile(90) / 1e6,
    latency:percentile(99) / 1e6, latency.max / 1e6, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout))
end
