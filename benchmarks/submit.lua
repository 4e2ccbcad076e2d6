-- Submits a small batch, another one each time, and writes down the job of every 202. Told by the environment.
local project, answered = os.getenv("PROJECT"), io.open(os.getenv("ANSWERED"), "w")
local head = {
  ["Content-Type"] = "application/json",
  ["Authorization"] = "Bearer " .. os.getenv("TOKEN"),
}
local number = os.time() % 1000000 * 100000

function request()
  number = number + 1
  local name = string.format("%d", number)
  local rows = "id,prompt\\n" .. name .. ",tell the story number " .. name .. "\\n"
  local body = '{"projectId":"' .. project .. '","type":"TASK","generateEmbeddings":false,"csvData":"' .. rows .. '"}'
  return wrk.format("POST", nil, head, body)
end

function response(status, headers, body)
  if status == 202 then
    answered:write(body:match('"jobId":"([^"]+)"'), "\n")
    answered:flush()
  end
end
